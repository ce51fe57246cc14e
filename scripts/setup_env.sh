# Make or find the Python environment and activate it: source scripts/setup_env.sh [extras of pyproject.toml, default train]
# Uses the active environment if it has what is asked for, else .venv in the repository, made if it is missing. The package
# is installed in it so that edits count at once. Afterwards $PYTHON is the interpreter to call.

_root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
_extras="${1:-train}"

_satisfied() { # interpreter, --package: does it have every package in a version that fits, and ours?
    "$1" "$_root/scripts/check_environment.py" "$_extras" ${2:-} >/dev/null 2>&1
}

_pip() { # interpreter, arguments
    "$1" -m pip install --quiet --no-compile --disable-pip-version-check "${@:2}"
}

_install_torch() { # CPU builds where there is no NVIDIA GPU: the default Linux wheel brings gigabytes of CUDA
    if [ "$(uname)" = Darwin ] || nvidia-smi >/dev/null 2>&1; then
        _pip "$1" "torch>=2.11,<2.14"
    else
        _pip "$1" "torch==2.13.0+cpu" 2>/dev/null || _pip "$1" "torch==2.13.0" --index-url https://download.pytorch.org/whl/cpu
    fi
}

_install_package() { # editable, without looking at dependencies again; without the network where setuptools is there
    _pip "$1" --no-deps --no-build-isolation -e "$_root" 2>/dev/null || _pip "$1" --no-deps -e "$_root"
}

_make_environment() {
    command -v python3 >/dev/null || { echo "error: python3 is not installed: install Python 3.10 or newer" >&2; return 1; }
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
        { echo "error: $(python3 --version) is too old: install Python 3.10 or newer" >&2; return 1; }
    echo "setting up $_root/.venv (a few minutes, once)"
    local python="$_root/.venv/bin/python"
    [ -x "$python" ] || python3 -m venv "$_root/.venv" || return 1
    "$python" -c 'import torch' >/dev/null 2>&1 || _install_torch "$python" || return 1
    DS_BUILD_OPS=0 _pip "$python" -e "$_root[$_extras]" || return 1
}

if _satisfied python3; then
    PYTHON="$(command -v python3)"
else
    if ! _satisfied "$_root/.venv/bin/python"; then
        _make_environment || { echo "error: the environment could not be set up; see the messages above" >&2; return 1; }
    fi
    source "$_root/.venv/bin/activate"
    PYTHON="$_root/.venv/bin/python"
fi
_satisfied "$PYTHON" --package || _install_package "$PYTHON" ||
    { echo "error: the package could not be installed into $PYTHON; see the messages above" >&2; return 1; }
export PYTHON
# glibc hands large buffers back to the system after every operation, which costs a CPU run a third of its time.
export MALLOC_MMAP_THRESHOLD_="${MALLOC_MMAP_THRESHOLD_:-2000000000}" MALLOC_TRIM_THRESHOLD_="${MALLOC_TRIM_THRESHOLD_:-8000000000}"
# Without this DeepSpeed warns at every start that it found no GPU.
nvidia-smi >/dev/null 2>&1 || export DS_ACCELERATOR=cpu
