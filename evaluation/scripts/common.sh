# Sourced by eval_*.sh: run the method and its baselines on one benchmark, then one report of all runs.
#
# From the environment: TASK (a benchmark of the protocol), MODEL_PATH (checkpoint), TEACHER_PATH (also run this one;
# default: none), OUTPUT_PATH, DATA_DIR (local data; default: the hub), LIMIT (documents; default: all), SAMPLES (responses
# per document; default: 1), BATCH_SIZE, DTYPE, NUM_PROCESSES (default: one per GPU), THRESHOLDS (CAD thresholds, several for
# a sweep), RUNS (of "cad cad_full fixed_stop fixed", or NAME:gen_kwargs for any other decoder), TEACHER_RUNS (default: RUNS),
# PROTOCOL (default; published, field, field_raw: evaluation/protocols), GEN_LENGTH and BLOCK_LENGTH (the protocol's). Further
# arguments go to evaluation_script.py. Run the same command again to resume.

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
source "$root/scripts/setup_env.sh" eval

PROTOCOL="${PROTOCOL:-default}"
stored="$(cd "$root" && "$PYTHON" -m evaluation.protocol "$PROTOCOL" "$TASK")" # alone, so that its failure stops here
read -r TASK lm_eval_task gen_length block_length <<<"$stored"
GEN_LENGTH="${GEN_LENGTH:-$gen_length}" BLOCK_LENGTH="${BLOCK_LENGTH:-$block_length}"
MODEL_PATH="${MODEL_PATH:-GSAI-ML/LLaDA-8B-Instruct}"
SAMPLES="${SAMPLES:-1}"
pass="$([ "$SAMPLES" = 1 ] || echo "_pass$SAMPLES")"
apart="$([[ "$PROTOCOL" == field* ]] && echo "$PROTOCOL/" || true)"
OUTPUT_PATH="${OUTPUT_PATH:-outputs/eval/$apart$TASK$pass}"
RUNS="${RUNS:-cad fixed_stop fixed}"
gpus="$({ nvidia-smi -L 2>/dev/null || true; } | wc -l)"
NUM_PROCESSES="${NUM_PROCESSES:-$((gpus > 1 ? gpus : 1))}" launch=("$PYTHON")
[ "$NUM_PROCESSES" -gt 1 ] && launch=("$PYTHON" -m torch.distributed.run --standalone --nproc_per_node "$NUM_PROCESSES")
finished=()

run() { # name, checkpoint, decoder's gen_kwargs
    "${launch[@]}" "$root/evaluation/evaluation_script.py" -m dllm_eval --model LLaDA --tasks "$lm_eval_task" --name "$1" \
        --batch_size "${BATCH_SIZE:-1}" --samples "$SAMPLES" --model_args "pretrained=$2,dtype=${DTYPE:-auto}" \
        --gen_kwargs "$3,gen_length=$GEN_LENGTH,block_length=$BLOCK_LENGTH" --output_path "$OUTPUT_PATH/$1" \
        --protocol "$PROTOCOL" --log_samples ${LIMIT:+--limit "$LIMIT"} ${DATA_DIR:+--data_dir "$DATA_DIR"} \
        ${arguments[@]+"${arguments[@]}"}
    finished+=("$OUTPUT_PATH/$1") reference="$1"
}

run_all() { # prefix of the runs' names, checkpoint, runs
    local threshold kind cad="use_dynamic=true,min_tokens_per_step=1,max_tokens_per_step=32,eos_threshold_ratio=0.3"
    for kind in $3; do
        case "$kind" in
        cad | cad_full)
            for threshold in ${THRESHOLDS:-0.95}; do
                run "$1${kind}_$threshold" "$2" \
                    "$cad,confidence_threshold=$threshold,stop_at_eos=$([ "$kind" = cad ] && echo true || echo false)"
            done
            ;;
        fixed_stop) run "${1}fixed_stop" "$2" "use_dynamic=false,steps=$GEN_LENGTH,stop_at_eos=true" ;;
        fixed) run "${1}fixed" "$2" "use_dynamic=false,steps=$GEN_LENGTH,stop_at_eos=false" ;;
        *:*) run "$1${kind%%:*}" "$2" "${kind#*:}" ;;
        *) echo "error: RUNS has '$kind': use cad, cad_full, fixed_stop, fixed, or NAME:gen_kwargs" >&2; exit 1 ;;
        esac
    done
}

evaluate_and_compare() { # arguments of evaluation_script.py; the last baseline is what the others are compared with
    arguments=("$@")
    run_all "" "$MODEL_PATH" "$RUNS"
    [ -z "${TEACHER_PATH:-}" ] || run_all "teacher_" "$TEACHER_PATH" "${TEACHER_RUNS:-$RUNS}"
    "$PYTHON" -m evaluation.report "${finished[@]}" --reference "$reference" --output_path "$OUTPUT_PATH"
}
