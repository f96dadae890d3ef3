#!/usr/bin/env bash
# Builds the Debian package with cargo-deb: programs, units, manuals, completions. Its path is the last line.
#   packaging/build.sh [OPTIONS OF cargo deb]
set -euo pipefail
cd "$(dirname "$0")/.."

cargo build --locked --release --bin usnetd --bin usnetctl
programs="${CARGO_TARGET_DIR:-target}/release"
# Where the table [package.metadata.deb] in switch/Cargo.toml looks for them.
made="$programs/packaging"
mkdir -p "$made"
for program in usnetd usnetctl; do
    "$programs/$program" man >"$made/$program.8"
    "$programs/$program" shell-completions bash >"$made/$program.bash"
    "$programs/$program" shell-completions zsh >"$made/_$program"
    "$programs/$program" shell-completions fish >"$made/$program.fish"
done
exec cargo deb --locked --no-build --strip -p usnet-switch "$@"
