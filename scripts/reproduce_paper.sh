#!/usr/bin/env bash
# CD4LM's table from the teacher's weights, one command on 1 to 8 GPUs; run it again to resume.
#   TEACHER_MODEL_PATH=/models/LLaDA-8B-Instruct bash scripts/reproduce_paper.sh --confirm_run_unsafe_code
# What the environment and the arguments may say: bash scripts/reproduce_paper.sh --help
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup_env.sh train,eval
exec "$PYTHON" scripts/reproduce_paper.py "$@"
