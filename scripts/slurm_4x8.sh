#!/usr/bin/env bash
# Four nodes of 8 GPUs under Slurm: sbatch scripts/slurm_4x8.sh configs/llada_8b_gsm8k.yaml train.global_batch=64
# Paths in the config must lie on a file system that all nodes share; data and environment are made before (run once
# `python scripts/prepare_data.py ...` and `bash run_tests.sh -m "not slow"`). Submit the same line again to resume.
#SBATCH --job-name=cd4lm
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@300
#SBATCH --output=%x-%j.log
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?submit this file with sbatch from the repository root}"
source scripts/setup_env.sh train

export LAUNCH=${LAUNCH:-configs/accelerate_zero3_4x8gpu.yaml}
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_ADDR MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
srun --kill-on-bad-exit=1 bash -c \
    'MACHINE_RANK=$SLURM_NODEID exec "$PYTHON" -m cd4lm.training.launch "$@" train.launch="$LAUNCH"' _ "$@"
