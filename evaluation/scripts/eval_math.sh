#!/usr/bin/env bash
# MATH500 with the published settings: MODEL_PATH=... bash evaluation/scripts/eval_math.sh
# The method and its paired baselines, one report; see common.sh for what the environment may say.
set -euo pipefail
TASK="${TASK:-math500}" GEN_LENGTH="${GEN_LENGTH:-512}" BLOCK_LENGTH="${BLOCK_LENGTH:-32}"
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
evaluate_and_compare "$@"
