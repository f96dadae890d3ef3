#!/usr/bin/env bash
# Tries the Debian package on a copy of this machine that a systemd of its own boots, in a container: it installs, runs, is
# reloaded, watched and restarted by systemd, is started by who connects, and goes without a trace.
#   packaging/try.sh FILE.deb        as root; needs systemd-nspawn (Debian: systemd-container) and cc
set -euo pipefail
cd "$(dirname "$0")/.."
deb=$(realpath "$1")
[ "$(id -u)" -eq 0 ] || { echo "not root: a container cannot be made" >&2; exit 77; }
command -v systemd-nspawn >/dev/null || { echo "no systemd-nspawn (apt-get install systemd-container)" >&2; exit 77; }

# The machine as it is below, what the container writes above, in memory.
place=$(mktemp -d)
clean() {
    umount -q "$place/root" || true
    umount -q "$place/space" || true
    rmdir "$place/root" "$place/space" "$place"
}
trap clean EXIT
mkdir "$place/root" "$place/space"
mount -t tmpfs -o size=2G usnet-package "$place/space"
mkdir "$place/space/upper" "$place/space/work"
layers="lowerdir=/,upperdir=$place/space/upper,workdir=$place/space/work"
mount -t overlay usnet-package -o "$layers" "$place/root" || { echo "skipped: no copy of this machine without overlayfs" >&2; exit 77; }

root="$place/root"
mkdir "$root/try"
cp "$deb" "$root/try/usnetd.deb"
cc -std=c11 -O2 -Wall -o "$root/try/echo" tests/c-client/echo.c
cp packaging/try-inside.sh "$root/try/inside.sh"
# Nothing of this machine's is to run there but what is tried.
rm -f "$root"/etc/systemd/system/*.wants/* "$root/etc/machine-id" "$root/etc/resolv.conf"
cat >"$root/etc/systemd/system/try.service" <<'UNIT'
[Unit]
Description=What is tried
SuccessAction=exit
FailureAction=exit
[Service]
Type=oneshot
ExecStart=/bin/bash /try/inside.sh
StandardOutput=file:/try/said
StandardError=inherit
TimeoutStartSec=150
UNIT
timeout --kill-after=10 240 systemd-nspawn --quiet --directory="$root" --boot --private-network --register=no --keep-unit \
    --machine="usnet-package-$$" --resolv-conf=off --timezone=off --link-journal=no \
    systemd.unit=try.service systemd.show_status=no </dev/null >"$place/space/console" 2>&1 || true
if [ ! -e "$root/try/said" ]; then
    cat "$place/space/console" >&2
    echo "skipped: systemd does not boot in a container here" >&2
    exit 77
fi
cat "$root/try/said"
grep -qx "everything holds" "$root/try/said"
