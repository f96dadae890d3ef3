#!/usr/bin/env bash
# The steps before have left nothing behind: no link, no namespace, no firewall table, no process.
set -euo pipefail
: "${USNET_CI_BEFORE:?is set by .ci/run}"
diff "$USNET_CI_BEFORE" <(.ci/traces.sh) && echo "nothing was left behind"
