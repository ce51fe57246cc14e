"""Running a generated program against tests it never sees.

The program runs in a process of its own, without the tests: they stand in another process (driver.py), call the
program through a pipe, compare the plain values that come back and, when all hold, print a secret drawn for this run.
So the program gains nothing from leaving early, from patching builtins or from printing: the secret is never in its memory.

With bubblewrap: no network, an empty read-only file system with the interpreter and a small /tmp, no home, namespaces of
its own, killed as a whole. Without: a folder of its own in /tmp and, on Linux (x86_64, aarch64), the same system call
filter (no process, socket, signal or write); files that the user may read can be read. Elsewhere only limits remain.

Not covered: a hole in the kernel or in Python's JSON reader; a program that knows the answers of public tests by heart;
a program that tells by a call's timing that it is being tested. Objects compare by identity, so a class with an __eq__ of
its own compares unequal to other instances, and a change to an argument is not seen by the tests.
"""

import contextlib
import functools
import importlib.util
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from evaluation.metrics.sandbox import filter as call_filter
from evaluation.metrics.verdict import ERROR, OUTCOMES, RIGHT, TIMEOUT

HERE = Path(__file__).resolve().parent
NOTICE = """
*** NOTICE: generated code runs WITHOUT bubblewrap: {reason}.
*** It runs as you, {covered}.
*** Install bubblewrap (Debian, Ubuntu: apt install bubblewrap) or run the evaluation in a container or virtual machine.
"""
_noticed = threading.Lock()


class SandboxError(RuntimeError):
    """The sandbox itself does not work, so nothing is known about the program."""


@dataclass(frozen=True)
class Limits:
    """What one program may use; wall_seconds is generous, since a shared machine is slow."""

    cpu_seconds: int = 5
    wall_seconds: float = 20.0
    memory_mb: int = 1024
    file_mb: int = 1

    def __post_init__(self):
        for name, value in asdict(self).items():
            if value <= 0:
                raise ValueError(f"{name}={value} must be positive")


@dataclass(frozen=True)
class Job:
    """A program and its tests: `preamble` is run on the tests' side before the program's `names` are put there.

    All `required` names must be defined by the program.
    """

    program: str
    tests: str
    names: Sequence[str]
    required: Sequence[str] = ()
    preamble: str = ""


def require_confirmation(confirmed: bool) -> None:
    """Raise ValueError unless the user has agreed to run generated code."""
    if not confirmed:
        raise ValueError(
            "scoring this task runs programs written by a model: pass --confirm_run_unsafe_code "
            "(in Python confirm_run_unsafe_code=True) if you accept that"
        )


def run(job: Job, limits: Limits = Limits(), *, bubblewrap: bool | None = None) -> tuple[str, str]:
    """Outcome and detail of a program. bubblewrap=None takes it where it works, with a notice where it does not.

    Raises SandboxError if the sandbox cannot be set up.
    """
    if bubblewrap is None:
        bubblewrap = why_no_bubblewrap() is None
        if not bubblewrap and _noticed.acquire(blocking=False):
            covered = "with limits only; it can read, write and send what you can"
            if call_filter.available():
                covered = "without network and unable to write, but able to read what you can read"
            print(NOTICE.format(reason=why_no_bubblewrap(), covered=covered), file=sys.stderr, flush=True)
    return execute(job, limits, bubblewrap)


@functools.cache
def why_no_bubblewrap() -> str | None:
    """None if bubblewrap works here, else why it does not."""
    if shutil.which("bwrap") is None:
        return "bwrap is not installed"
    try:
        outcome, detail = execute(Job("def one(): return 1", "assert one() == 1", ["one"]), Limits(), bubblewrap=True)
    except SandboxError as error:
        return str(error)
    return None if outcome == RIGHT else f"a trial run ended with {outcome}: {detail}"


def execute(job: Job, limits: Limits, bubblewrap: bool) -> tuple[str, str]:
    """Run one job in a fresh sandbox and leave nothing behind."""
    secret = secrets.token_hex(16)
    message = json.dumps(asdict(job) | {"secret": secret}).encode()
    with tempfile.TemporaryDirectory(prefix="cd4lm_sandbox_") as folder:
        words = inside_bubblewrap(limits) if bubblewrap else plain(limits, Path(folder))
        process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder,
            env=ENVIRONMENT,
            start_new_session=True,
        )
        try:
            output, errors = process.communicate(message, timeout=limits.wall_seconds)
        except subprocess.TimeoutExpired:
            return TIMEOUT, f"no result after {limits.wall_seconds:g} s"
        finally:
            end(process)
    return verdict(output, errors, secret)


def verdict(output: bytes, errors: bytes, secret: str) -> tuple[str, str]:
    """Outcome and detail from what the driver printed; right only with the secret."""
    lines = output.decode(errors="replace").splitlines()
    if not lines:
        raise SandboxError(" ".join(errors.decode(errors="replace").split())[-300:] or "the sandbox did not start")
    if len(lines) < 2:
        return ERROR, "the tests' process died"
    outcome, detail, shown = json.loads(lines[1])
    if outcome not in OUTCOMES or (outcome == RIGHT and not secrets.compare_digest(shown, secret)):
        return ERROR, "a pass without the secret of this run"
    return outcome, detail


def end(process: subprocess.Popen) -> None:
    """Kill the whole session; bubblewrap takes its process namespace with it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        pipe.close()


ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "HOME": "/nonexistent",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
}
INTERPRETER_OPTIONS = ["-I", "-S", "-B", "-X", "utf8"]


def options(limits: Limits, packages: str, read_only: bool) -> str:
    """The driver's argument."""
    sandbox = {"packages": packages, "read_only": read_only, "filter": call_filter.available()}
    return json.dumps(asdict(limits) | sandbox)


def packages() -> list[Path]:
    """Folders of the one package that programs and EvalPlus tests may import beside the standard library: numpy."""
    spec = importlib.util.find_spec("numpy")
    if spec is None or spec.origin is None:
        return []
    numpy = Path(spec.origin).parent
    return [folder for folder in (numpy, numpy.with_name("numpy.libs")) if folder.is_dir()]


def plain(limits: Limits, folder: Path) -> list[str]:
    """Command without bubblewrap; `folder` is the program's own."""
    (folder / "packages").mkdir()
    for package in packages():
        (folder / "packages" / package.name).symlink_to(package)
    driver = [str(HERE / "driver.py"), options(limits, str(folder / "packages"), read_only=True)]
    return [sys.executable, *INTERPRETER_OPTIONS, *driver]


@functools.cache
def inside_bubblewrap(limits: Limits) -> list[str]:
    """Command with bubblewrap: only the interpreter, its libraries, numpy and the driver are there, all read-only."""
    interpreter = Path(os.path.realpath(sys.executable))
    words = ["bwrap", "--unshare-all", "--unshare-user", "--uid", "65534", "--gid", "65534", "--die-with-parent"]
    words += ["--new-session", "--hostname", "sandbox", "--cap-drop", "ALL", "--ro-bind", "/usr", "/usr"]
    for name in ("/lib", "/lib64", "/lib32", "/bin"):
        if os.path.islink(name):
            words += ["--symlink", os.readlink(name), name]
        elif os.path.isdir(name):
            words += ["--ro-bind", name, name]
    bound = [Path(sys.base_prefix) / "lib", interpreter, Path("/etc/ld.so.cache")]
    for path in bound:
        if path.exists() and not path.is_relative_to("/usr"):
            words += ["--ro-bind", str(path), str(path)]
    for package in packages():
        words += ["--ro-bind", str(package), f"/packages/{package.name}"]
    words += ["--ro-bind", str(HERE), "/sandbox"]
    for device in ("/dev/null", "/dev/urandom"):
        words += ["--dev-bind", device, device]
    described = subprocess.run(["bwrap", "--help"], capture_output=True, text=True)
    if "--size" in described.stdout + described.stderr:  # older ones cannot bound a tmpfs, which takes memory
        words += ["--size", str(16 << 20), "--tmpfs", "/tmp"]
    else:
        words += ["--dir", "/tmp"]
    words += ["--remount-ro", "/", "--chdir", "/tmp", "--", str(interpreter), *INTERPRETER_OPTIONS]
    return [*words, "/sandbox/driver.py", options(limits, "/packages", read_only=False)]
