#!/usr/bin/env bash
# The demo as root, and as an ordinary user: all of its checks hold.
set -euo pipefail
cargo build --locked --release --bin usnetd

# Where any user can run it.
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
chmod 0755 "$place"
install -m 0755 "${CARGO_TARGET_DIR:-target}/release/usnetd" "$place/usnetd"

check() { # NAME COMMAND...
    local name=$1 report="$place/$1.json"
    shift
    echo "--- as $name"
    "$@" >"$report" || { cat "$report"; echo "demo as $name: exit code not 0" >&2; return 1; }
    jq -r '"backend \(.backend)", (.checks[] | "\(if .ok then "ok    " else "FAILED" end) \(.name): \(.value) \(.unit)")' "$report"
    jq -e '.ok and (.checks | length > 0 and all(.ok))' "$report" >/dev/null
}

# The same over netmap, whose kernel side the program plays itself: as the tests built it, all packages together.
cargo build --locked --workspace --bin usnetd
install -m 0755 "${CARGO_TARGET_DIR:-target}/debug/usnetd" "$place/usnetd-double"

if [ "$(id -u)" -eq 0 ]; then
    check netmap timeout 120 "$place/usnetd-double" demo --netmap-double --json
    check root timeout 120 "$place/usnetd" demo --json
    check af_packet timeout 120 "$place/usnetd" demo --af-packet --json
    check nobody setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=-all --no-new-privs \
        env -i PATH="$PATH" HOME=/nonexistent timeout 120 "$place/usnetd" demo --json
else
    check "$(id -un)" timeout 120 "$place/usnetd" demo --json
    echo "not root: the demo as root was not run"
fi
