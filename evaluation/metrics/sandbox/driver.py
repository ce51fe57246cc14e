"""Inside the sandbox, the tests' process: it holds the tests and the secret, its child runs the generated program.

The child is forked before this process reads anything, so neither tests nor secret are ever in its memory or among its
files. The tests call the program's functions through a pipe; what comes back is compared here. A handle to an object of
the program equals itself only. Started by evaluation/metrics/sandbox/__init__.py; standard library only.
"""

import builtins
import ctypes
import importlib
import json
import os
import resource
import signal
import sys
import traceback

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from program import decode, encode, send, serve

MESSAGE_LIMIT = 16 << 20  # bytes of one reply
SET_PDEATHSIG, SET_DUMPABLE = 1, 4


class Program:
    """The program in the child process, asked through a pipe."""

    def __init__(self, child: int, requests, replies, finish):
        self.child, self.requests, self.replies, self.finish = child, requests, replies, finish

    def ask(self, *request):
        """The value of an operation. Raises what the program raised; a dead program ends everything, tests or not."""
        try:
            send(self.requests, request)
            line = self.replies.readline(MESSAGE_LIMIT)
        except OSError:
            line = b""
        if not line.endswith(b"\n"):
            self.finish(*self.cause(line))
        reply = json.loads(line)
        if "error" in reply:
            kind = getattr(builtins, str(reply["error"]), None)
            plain = isinstance(kind, type) and issubclass(kind, Exception)
            raise kind(reply["detail"]) if plain else RuntimeError(f"{reply['error']}: {reply['detail']}")
        return reply["value"]

    def cause(self, line: bytes) -> tuple[str, str]:
        """Outcome and detail of a program that does not answer."""
        if line:
            return "error", "the program returned too large a value"
        _, status = os.waitpid(self.child, 0)
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL):
            return "timeout", "the program used up its CPU time"
        return "error", f"the program ended early (status {os.waitstatus_to_exitcode(status)})"

    def operate(self, operation: str, *arguments):
        return decode(self.ask(operation, *(encode(a, reference) for a in arguments)), lambda i: Remote(self, i))


class Remote:
    """An object of the program. Its truth, length and items are asked for; equality is identity, decided here."""

    def __init__(self, program: Program, number: int):
        object.__setattr__(self, "_remote", (program, number))

    def __call__(self, *arguments, **named):
        return self._remote[0].operate("call", self, arguments, named)

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return self._remote[0].operate("getattr", self, name)

    def __setattr__(self, name, value):
        self._remote[0].operate("setattr", self, name, value)

    def __getitem__(self, key):
        return self._remote[0].operate("getitem", self, key)

    def __setitem__(self, key, value):
        self._remote[0].operate("setitem", self, key, value)

    def __len__(self):
        return self._remote[0].operate("len", self)

    def __bool__(self):
        return self._remote[0].operate("bool", self)

    def __iter__(self):
        iterator = self._remote[0].operate("iter", self)
        while True:
            try:
                item = self._remote[0].operate("next", iterator)
            except StopIteration:
                return
            yield item

    def __eq__(self, other):
        return isinstance(other, Remote) and self._remote[1] == other._remote[1]

    def __hash__(self):
        return self._remote[1]


def reference(value) -> int:
    """The handle of a program's object. Raises TypeError for an object of the tests, which cannot cross."""
    if not isinstance(value, Remote):
        raise TypeError(f"the tests pass a {type(value).__name__}, which cannot be handed to the program")
    return value._remote[1]


def examine(program: Program, job: dict) -> tuple[str, str]:
    """Outcome and detail: load the program, give the tests its names, run the tests."""
    namespace = {"__name__": "tests"}
    try:
        loaded = program.ask("run", job["program"], job["names"])
    except Exception as error:
        return "error", f"{type(error).__name__}: {error}"
    missing = [name for name in job["required"] if name not in loaded["values"]]
    if missing:
        return "error", f"the program does not define {missing[0]}"
    exec(compile(job["preamble"], "preamble", "exec"), namespace)
    for name in loaded["modules"]:
        if name in sys.stdlib_module_names:
            namespace[name] = importlib.import_module(name)
    for name, value in loaded["values"].items():
        namespace[name] = decode(value, lambda i: Remote(program, i))
    try:
        exec(compile(job["tests"], "tests", "exec"), namespace)
    except AssertionError as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == "tests"]
        return "wrong", " ".join(job["tests"].splitlines()[lines[-1] - 1].split())[:300] if lines else "assertion"
    except Exception as error:
        return "error", f"{type(error).__name__}: {error}"
    return "right", ""


def protect() -> None:
    """Die with the process that started this one; let no other process of the same user look into this one."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        libc.prctl(SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        libc.prctl(SET_DUMPABLE, 0, 0, 0, 0)


def bound(limits: dict) -> None:
    """A program's replies may take this process's time and memory, but no more than its own."""
    resource.setrlimit(resource.RLIMIT_CPU, (limits["cpu_seconds"],) * 2)
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (limits["memory_mb"] << 20,) * 2)


def main() -> None:
    limits = json.loads(sys.argv[1])
    sys.set_int_max_str_digits(0)
    sys.path += [limits["packages"]]
    verdict_pipe = os.dup(1)
    job_pipe = os.dup(0)
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    os.write(verdict_pipe, b"started\n")
    to_program, to_tests = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        protect()
        for descriptor in (verdict_pipe, job_pipe, to_program[1], to_tests[0], null):
            os.close(descriptor)
        sys.argv = [""]
        try:
            serve(os.fdopen(to_program[0], "rb"), os.fdopen(to_tests[1], "wb"), limits)
        finally:
            os._exit(0)
    protect()
    os.close(to_program[0])
    os.close(to_tests[1])
    job = json.loads(os.fdopen(job_pipe, "rb").read())

    def finish(outcome: str, detail: str) -> None:
        secret = job["secret"] if outcome == "right" else ""
        os.write(verdict_pipe, json.dumps([outcome, detail[:1000], secret]).encode() + b"\n")
        os._exit(0)

    program = Program(child, os.fdopen(to_program[1], "wb"), os.fdopen(to_tests[0], "rb"), finish)
    bound(limits)
    try:
        finish(*examine(program, job))
    except BaseException as error:  # also MemoryError and RecursionError from a reply made to hurt: never a pass
        finish("error", f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
