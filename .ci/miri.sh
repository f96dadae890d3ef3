#!/usr/bin/env bash
# The rings and the ownership of slots under Miri: no undefined behaviour, with memory that is not mapped.
set -euo pipefail
if ! cargo +nightly miri --version >/dev/null 2>&1; then
    echo "skipped: no nightly compiler with Miri (rustup toolchain install nightly -c miri -c rust-src)"
    exit 77
fi
# The tests against a hostile peer take many minutes under Miri; by hand: --test hostile.
cargo +nightly miri test --locked -p usnet-shmring --lib --test ledger_model --test queue_model
