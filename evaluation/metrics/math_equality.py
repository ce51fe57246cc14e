"""Whether two answers are equal as mathematics, by math-verify in a process of its own.

math-verify's time limits are signals, which only a main thread can take and no computation inside C sees (9^9^9^9). So they
are off; a timer kills the process instead, and the next question starts another. Any thread may ask.
"""

import importlib.util
import json
import resource
import subprocess
import sys
import threading
from pathlib import Path

MEMORY = 4 << 30  # bytes; towers of powers would take all there is
SECONDS, START_SECONDS = 10.0, 120.0


class Worker:
    """One process that answers in turn; started when first asked."""

    def __init__(self):
        self.lock = threading.Lock()
        self.process = None

    def ask(self, gold: str, answer: str) -> str:
        """Outcome: right, wrong, no_answer (nothing to compare), timeout, error. Raises ValueError without math-verify."""
        with self.lock:
            if self.process is None or self.process.poll() is not None:
                self.start()
            return self.exchange(json.dumps([gold, answer]), SECONDS)

    def exchange(self, message: str, seconds: float) -> str:
        timer = threading.Timer(seconds, self.process.kill)
        timer.start()
        print(message, file=self.process.stdin, flush=True)
        reply = self.process.stdout.readline().strip()
        in_time = timer.is_alive()
        timer.cancel()
        if not (reply and in_time):
            self.process.wait()
        return reply or ("error" if in_time else "timeout")

    def start(self) -> None:
        if importlib.util.find_spec("math_verify") is None:
            raise ValueError('MATH500 needs math-verify: pip install ".[eval]", or use --protocol published')
        words = [sys.executable, str(Path(__file__).resolve())]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if self.exchange('["1", "1"]', START_SECONDS) != "right":
            raise ValueError("math-verify does not start: see its message above, or use --protocol published")


WORKER = Worker()


def equal(gold: str, answer: str) -> str:
    """Outcome of LaTeX text `answer` against `gold`, as Worker.ask."""
    return WORKER.ask(gold, answer)


def serve() -> None:
    """The worker: a pair of texts per line in, one outcome per line out."""
    import logging

    from math_verify import parse, verify

    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    logging.disable(logging.CRITICAL)  # it warns on every call that its time limits are off
    answers, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no outcome
    for line in sys.stdin:
        try:
            gold, answer = (parse(text, parsing_timeout=None) for text in json.loads(line))
            right = bool(answer) and verify(gold, answer, timeout_seconds=None)
            outcome = "right" if right else "wrong" if answer else "no_answer"
        except Exception:  # MemoryError, RecursionError, what sympy raises: an outcome of its own in the results
            outcome = "error"
        print(outcome, file=answers, flush=True)


if __name__ == "__main__":
    serve()
