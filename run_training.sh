#!/usr/bin/env bash
# Set up, train, evaluate, report. No argument: the embedded default on a CPU, results in outputs/tiny.
#   bash run_training.sh [config.yaml] [key=value ...]
#   TEACHER_MODEL_PATH=/models/LLaDA-8B-Instruct DATA_DIR=/data/gsm8k bash run_training.sh
#   NUM_PROCESSES=2 bash run_training.sh      the same run shared by two processes
# From the environment: NUM_PROCESSES TEACHER_MODEL_PATH DATA_DIR OUTPUT_DIR TEMPERATURE INITIAL_LAMBDA FINAL_LAMBDA.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
source scripts/setup_env.sh train

default=configs/tiny.yaml
[ -z "${TEACHER_MODEL_PATH:-}" ] || default=configs/llada_8b_gsm8k.yaml
case "${1:-}" in
    "" | *=*) config=$default ;;
    *) config=$1; shift ;;
esac

overrides=()
for pair in TEACHER_MODEL_PATH:teacher DATA_DIR:data.dir OUTPUT_DIR:output_dir TEMPERATURE:dscd.temperature \
    INITIAL_LAMBDA:dscd.initial_lambda FINAL_LAMBDA:dscd.final_lambda; do
    name=${pair%%:*}
    value=${!name:-}
    [ -z "$value" ] || overrides+=("${pair#*:}=$value")
done
exec "$PYTHON" scripts/run_experiment.py "$config" ${overrides[@]+"${overrides[@]}"} "$@"
