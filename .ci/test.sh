#!/usr/bin/env bash
# The README's test command. USNET_TESTS_REQUIRE_ALL=1 (set by .ci/run): nothing may be skipped.
set -euo pipefail
log="${CARGO_TARGET_DIR:-target}/ci-test.log"
code=0
cargo test --workspace 2>&1 | tee "$log" || code=$?
if [ -n "${USNET_CI_COUNTS:-}" ]; then
    awk '/^test result:/ { p += $4; f += $6 } END { print p + 0, f + 0 }' "$log" >>"$USNET_CI_COUNTS"
fi
exit "$code"
