#!/usr/bin/env bash
# Set up and run every test: bash run_tests.sh [pytest arguments]. The quick part alone: bash run_tests.sh -m "not slow"
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
source scripts/setup_env.sh requirements-dev.txt
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
exec "$PYTHON" -m pytest "$@"
