#!/usr/bin/env bash
# Set up and run every test: bash run_tests.sh [pytest arguments]. The quick part alone: bash run_tests.sh -m "not slow"
# What only GPUs can show, one test after the other: bash run_tests.sh -m gpu
# Those with a real vLLM, in an environment of its own (docs/serving.md): bash run_tests.sh serving
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
[ "${1:-}" != serving ] || exec bash tests/serving/run.sh "${@:2}"
source scripts/setup_env.sh dev
source scripts/setup_system.sh bubblewrap:bwrap chromium:chromium
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
# One thread each, the models are too small to gain from more; two workers per core, since many tests wait for processes.
workers=$("$PYTHON" -c 'import os; print(2 * min(os.cpu_count() or 1, 8))')
[[ "$*" != "-m gpu"* ]] || workers=0
export OMP_NUM_THREADS=1
exec "$PYTHON" -m pytest --numprocesses "$workers" --dist loadscope --no-loadscope-reorder "$@"
