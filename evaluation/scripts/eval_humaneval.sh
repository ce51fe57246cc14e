#!/usr/bin/env bash
# HumanEval (TASK=humaneval_plus, SAMPLES=5 for variants) with the settings of a protocol, by default CD4LM's:
# MODEL_PATH=... bash evaluation/scripts/eval_humaneval.sh --confirm_run_unsafe_code
# The method and its paired baselines, one report; see common.sh for what the environment may say.
set -euo pipefail
TASK="${TASK:-humaneval}"
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
evaluate_and_compare "$@"
