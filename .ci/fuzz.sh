#!/usr/bin/env bash
# Each fuzz target for a few seconds: it builds, runs, and finds nothing at once.
set -euo pipefail
if ! cargo +nightly fuzz --version >/dev/null 2>&1; then
    echo "skipped: no cargo-fuzz with a nightly compiler (rustup toolchain install nightly; cargo install cargo-fuzz)"
    exit 77
fi
if ! command -v c++ >/dev/null; then
    echo "skipped: libFuzzer needs a C++ compiler (apt-get install g++)"
    exit 77
fi
seconds="${USNET_FUZZ_SECONDS:-6}"
# Linking every target as the release profile does takes longer than all the fuzzing.
export CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_PROFILE_RELEASE_OPT_LEVEL=1
unset CARGO_TARGET_DIR # cargo-fuzz keeps its build, which is instrumented, in fuzz/target
for target in $(cargo +nightly fuzz list); do
    echo "--- $target, $seconds s"
    cargo +nightly fuzz run "$target" -- -max_total_time="$seconds" -verbosity=0 -print_final_stats=1
done
