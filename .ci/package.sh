#!/usr/bin/env bash
# The Debian package: cargo-deb builds it, and it holds what it promises under a systemd of its own.
set -euo pipefail
if ! cargo deb --version >/dev/null 2>&1; then
    echo "skipped: cargo-deb is not installed (cargo install cargo-deb)"
    exit 77
fi
deb=$(packaging/build.sh | tail -1)
dpkg-deb --info "$deb"
packaging/try.sh "$deb"
