"""Whether two answers are equal as mathematics, by math-verify in a process of its own.

math-verify's own time limits are signals, which work in a main thread only and not in the middle of a C call. Here they
are off; the process that asks waits at most `seconds` and then kills and replaces the worker. Any thread may ask.
"""

import importlib.util
import json
import os
import select
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

MEMORY = 4 << 30  # bytes; towers of powers would take all there is
START_SECONDS = 120


class Worker:
    """One process that answers requests in turn; started when first asked."""

    def __init__(self):
        self.lock = threading.Lock()
        self.process = None
        self.owner = None

    def ask(self, gold: str, answer: str, seconds: float) -> str:
        """Outcome: right, wrong, no_answer (nothing to compare), timeout, error. Raises ValueError without math-verify."""
        with self.lock:
            if self.process is None or self.owner != os.getpid() or self.process.poll() is not None:
                self.start()
            self.process.stdin.write(json.dumps([gold, answer]).encode() + b"\n")
            self.process.stdin.flush()
            reply = self.reply(seconds)
            if not reply:
                self.stop()
            return "timeout" if reply is None else reply or "error"

    def reply(self, seconds: float) -> str | None:
        """The worker's next word, None if it has none in time, empty if it has died."""
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        return os.read(self.process.stdout.fileno(), 100).decode().strip() if ready else None

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
        self.process = None

    def start(self) -> None:
        if importlib.util.find_spec("math_verify") is None:
            raise ValueError(
                "MATH500 needs math-verify: pip install -r evaluation/requirements.txt, or use --protocol published"
            )
        errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the worker
        words = [sys.executable, str(Path(__file__).resolve())]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": errors}
        self.process, self.owner = subprocess.Popen(words, **pipes), os.getpid()
        if self.reply(START_SECONDS) != "ready":
            self.stop()
            errors.seek(0)
            raise ValueError(f"math-verify does not start: {errors.read().decode(errors='replace')[-300:]}")


WORKER = Worker()


def equal(gold: str, answer: str, seconds: float = 10.0) -> str:
    """Outcome of LaTeX text `answer` against `gold`, as Worker.ask."""
    return WORKER.ask(gold, answer, seconds)


def serve() -> None:
    """The worker: a pair of texts per line in, one outcome per line out."""
    sys.path.pop(0)  # this folder, whose `statistics` is not the library's
    import logging

    from math_verify import parse, verify

    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    logging.disable(logging.CRITICAL)  # it warns on every call that its time limits are off
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no outcome
    print("ready", file=answers)
    for line in sys.stdin:
        gold, answer = (parse(text, parsing_timeout=None) for text in json.loads(line))
        right = bool(answer) and verify(gold, answer, timeout_seconds=None)
        print("right" if right else "wrong" if answer else "no_answer", file=answers)


if __name__ == "__main__":
    serve()
