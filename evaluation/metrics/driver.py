"""Inside the sandbox: run a program, then its tests in the same namespace, and answer the process that asked.

Started by evaluation/metrics/sandbox.py, which says what this protects from; standard library only. Socket 0 carries, in
turn: `started`, the program, `loaded`, the tests, `passed`, the secret, the secret. Instead of a word this process may send
[outcome, detail] and end. Every function that leads to a pass is bound before the program runs.
"""

import json
import os
import resource
import sys
import traceback
import types


def restrict(options: dict) -> None:
    """Take another root folder and user if asked, then the limits, which cannot be raised again."""
    if options["user"] is not None:
        os.chroot(options["root"])
        os.setgroups([])
        os.setresgid(*[options["user"]] * 3)
        os.setresuid(*[options["user"]] * 3)
    os.chdir(options["folder"])
    limits = {
        resource.RLIMIT_CPU: options["cpu_seconds"],
        resource.RLIMIT_FSIZE: options["file_mb"] << 20,
        resource.RLIMIT_NPROC: options["processes"],
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
    }
    if sys.platform == "linux":  # macOS refuses this limit
        limits[resource.RLIMIT_AS] = options["memory_mb"] << 20
    for name, value in limits.items():
        hard = resource.getrlimit(name)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(name, (value, value))


def quiet() -> int:
    """Turn the standard streams to /dev/null; returns a descriptor of the socket they were."""
    channel, null = os.dup(0), os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    os.close(null)
    return channel


def describe(error: BaseException, tests: str | None) -> tuple[str, str]:
    """Outcome and detail of an exception; tests is None while the program itself runs."""
    if tests is not None and isinstance(error, AssertionError):
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == "tests"]
        return "wrong", " ".join(tests.splitlines()[lines[-1] - 1].split())[:300] if lines else "assertion"
    return "error", f"{type(error).__name__}: {error}"[:300]


def serve(channel: int, namespace: dict) -> None:
    """Run the program and the tests that arrive, and say how they end."""
    read, write, leave, compiled, execute, any_error = os.read, os.write, os._exit, compile, exec, BaseException

    def receive() -> bytes:
        data = b""
        while not data.endswith(b"\0"):  # which no source text may contain
            piece = read(channel, 65536)
            if not piece:
                leave(1)
            data += piece
        return data[:-1]

    tests = None
    write(channel, b"started\n")
    try:
        execute(compiled(receive().decode("utf-8", "surrogatepass"), "program", "exec"), namespace)
        write(channel, b"loaded\n")
        tests = receive().decode("utf-8", "surrogatepass")
        execute(compiled(tests, "tests", "exec"), namespace)
        write(channel, b"passed\n")
        write(channel, receive() + b"\n")
    except any_error as error:  # also SystemExit, MemoryError and RecursionError: whatever is raised is no pass
        write(channel, json.dumps(describe(error, tests)).encode() + b"\n")
    finally:
        leave(0)  # neither exit hooks nor other threads


def main() -> None:
    options = json.loads(sys.argv[1])
    sys.argv = [""]
    sys.path.append(options["packages"])
    sys.set_int_max_str_digits(0)
    module = types.ModuleType("solution")
    sys.modules["solution"] = module
    restrict(options)
    serve(quiet(), module.__dict__)


if __name__ == "__main__":
    main()
