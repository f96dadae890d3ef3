#!/usr/bin/env bash
# Licences, sources, bans. tests/tests/dependencies.rs checks the rules of deny.toml in the test step in any
# case; cargo-deny reads the same file. Advisories need their database from the network and are not
# checked here: `cargo deny check advisories`.
set -euo pipefail
if ! cargo deny --version >/dev/null 2>&1; then
    echo "skipped: cargo-deny is not installed (cargo install cargo-deny); the test step checks deny.toml without it"
    exit 77
fi
# It looks at crates for other systems, too, which no build here has fetched.
cargo fetch --locked --quiet
cargo deny --offline --locked check licenses bans sources
