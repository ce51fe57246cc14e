#!/usr/bin/env bash
# The tests with the real vLLM on a CPU: bash run_tests.sh serving [pytest arguments]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source tests/serving/environment.sh
exec "$PYTHON" -m pytest --override-ini testpaths=tests/serving "$@"
