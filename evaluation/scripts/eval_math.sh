#!/usr/bin/env bash
# Mathematics (MATH500; MATH under PROTOCOL=field) with the settings of a protocol, by default CD4LM's:
# MODEL_PATH=... bash evaluation/scripts/eval_math.sh
# The method and its paired baselines, one report; see common.sh for what the environment may say.
set -euo pipefail
TASK="${TASK:-math}"
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
evaluate_and_compare "$@"
