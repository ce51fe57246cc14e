"""Running a generated program against tests it never sees.

The program runs in a process of its own, without the tests: they stand in another process (driver.py), call the
program through a pipe, compare the plain values that come back and, when all hold, print a secret drawn for this run.
So the program gains nothing from leaving early, from patching builtins or from printing: the secret is never in its memory.

With bubblewrap: no network, an empty read-only file system with the interpreter and a small /tmp, no home, namespaces of
its own, killed as a whole. In both cases on Linux (x86_64, aarch64) a system call filter: no process, socket or signal.
Without bubblewrap the filter also refuses every write, and Landlock (Linux 5.13) every read outside the interpreter. Where
a kernel has neither, and on other systems, only the limits remain; the notice says which of these holds.

Not covered: a hole in the kernel or in Python's JSON reader; a program that knows the answers of public tests by heart;
a program that tells by a call's timing that it is being tested. Objects compare by identity, so a class with an __eq__ of
its own compares unequal to other instances, and a change to an argument is not seen by the tests.
"""

import contextlib
import functools
import json
import os
import secrets
import select
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
from evaluation.metrics.sandbox import landlock
from evaluation.metrics.sandbox.commands import ENVIRONMENT, Limits, inside_bubblewrap, plain
from evaluation.metrics.verdict import ERROR, OUTCOMES, RIGHT, TIMEOUT

NOTICE = """
*** NOTICE: generated code runs WITHOUT bubblewrap: {reason}.
*** It runs as you, {covered}.
*** Install bubblewrap (Debian, Ubuntu: apt install bubblewrap) or run the evaluation in a container or virtual machine.
"""
DEFAULT_LIMITS = Limits()
END_SECONDS = 10
_noticed = threading.Lock()


class SandboxError(RuntimeError):
    """The sandbox itself does not work, so nothing is known about the program."""


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


def run(job: Job, limits: Limits = DEFAULT_LIMITS, *, bubblewrap: bool | None = None) -> tuple[str, str]:
    """Outcome and detail of a program. bubblewrap=None takes it where it works, with a notice where it does not.

    Raises SandboxError if the sandbox cannot be set up.
    """
    if bubblewrap is None:
        bubblewrap = why_no_bubblewrap() is None
        if not bubblewrap and _noticed.acquire(blocking=False):
            print(
                NOTICE.format(reason=why_no_bubblewrap(), covered=covered_without_bubblewrap()),
                file=sys.stderr,
                flush=True,
            )
    return execute(job, limits, bubblewrap)


def covered_without_bubblewrap() -> str:
    """What this system can keep a program from, in words."""
    if not call_filter.available():
        return "with limits on time and memory only: it can read, write and send what you can"
    if not landlock.available():
        return "kept from the network, other processes and writing, but NOT from reading what you can read"
    return "kept from the network, other processes, writing and reading your files by the kernel's own means alone"


@functools.cache
def why_no_bubblewrap() -> str | None:
    """None if bubblewrap works here, else why it does not."""
    if shutil.which("bwrap") is None:
        return "bwrap is not installed"
    try:
        outcome, detail = execute(
            Job("def one(): return 1", "assert one() == 1", ["one"]), DEFAULT_LIMITS, bubblewrap=True
        )
    except SandboxError as error:
        return str(error)
    return None if outcome == RIGHT else f"a trial run ended with {outcome}: {detail}"


def execute(job: Job, limits: Limits, bubblewrap: bool) -> tuple[str, str]:
    """Run one job in a fresh sandbox and leave nothing behind."""
    secret = secrets.token_hex(16)
    message = json.dumps(asdict(job) | {"secret": secret}).encode()
    with tempfile.TemporaryDirectory(prefix="cd4lm_sandbox_") as folder:
        alive, held = os.pipe()
        words = inside_bubblewrap(limits) if bubblewrap else plain(limits, Path(folder))
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "pass_fds": (held,)}
        process = subprocess.Popen(words, **pipes, cwd=folder, env=ENVIRONMENT, start_new_session=True)
        os.close(held)
        try:
            output, errors = process.communicate(message, timeout=limits.wall_seconds)
        except subprocess.TimeoutExpired:
            return TIMEOUT, f"no result after {limits.wall_seconds:g} s"
        finally:
            end(process, alive)
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


def end(process: subprocess.Popen, alive: int) -> None:
    """Kill the whole session, and wait until nobody holds the other end of `alive`, which all inside inherit.

    Bubblewrap takes its process namespace with it.
    """
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        pipe.close()
    gone = select.poll()
    gone.register(alive, 0)  # reports only that the other end is closed
    gone.poll(END_SECONDS * 1000)
    os.close(alive)
