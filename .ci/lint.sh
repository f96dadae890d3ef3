#!/usr/bin/env bash
# Formats, lints and documentation, without a warning.
set -euo pipefail
cargo fmt --all --check
cargo clippy --locked --workspace --all-targets -- -D warnings
RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --quiet
