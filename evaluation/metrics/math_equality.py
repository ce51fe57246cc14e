r"""Whether two expressions or equations are equal, by math-verify's parser in a process of its own.

math-verify reads the LaTeX and decides what has no value, such as inequalities. For expressions its own comparison is too
kind: it takes 1/2^98 for 1/2^99 (absolute precision), 0.333333 for 1/3 (rounding), and reads as much of a text as it can
(4 from 4\sqrt(2)). So the whole text must be readable, and both sides must agree to 30 digits at several points.

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
DIGITS = 40  # of every evaluation; two values are equal if they agree to three quarters of these
# Values of the variables, by their order: irrational enough that no two different answers agree, of both signs.
POINTS = (("0.7390851332", "1.3063778838"), ("-0.5671432904", "2.2360679775"), ("3.3166247903", "-1.9021605831"))


class Worker:
    """One process that answers in turn; started when first asked."""

    def __init__(self):
        self.lock = threading.Lock()
        self.process = None

    def ask(self, kind: str, gold: str, answer: str) -> str:
        """Outcome: right, wrong, no_answer (unreadable), timeout, error. Raises ValueError without math-verify."""
        with self.lock:
            if self.process is None or self.process.poll() is not None:
                self.start()
            return self.exchange(json.dumps([kind, gold, answer]), SECONDS)

    def exchange(self, message: str, seconds: float) -> str:
        timer = threading.Timer(seconds, self.process.kill)
        timer.start()
        try:
            print(message, file=self.process.stdin, flush=True)
            reply = self.process.stdout.readline().strip()
        except BrokenPipeError:  # the process died since the last question
            reply = ""
        in_time = timer.is_alive()
        timer.cancel()
        if not (reply and in_time):
            self.process.kill()
            self.process.wait()
        return reply or ("error" if in_time else "timeout")

    def start(self) -> None:
        if importlib.util.find_spec("math_verify") is None:
            raise ValueError('MATH500 needs math-verify: pip install ".[eval]", or use --protocol published')
        words = [sys.executable, str(Path(__file__).resolve())]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if self.exchange('["value", "1", "1"]', START_SECONDS) != "right":
            raise ValueError("math-verify does not start: see its message above, or use --protocol published")


WORKER = Worker()


def equal(gold: str, answer: str) -> str:
    """Outcome of the expression `answer` against `gold`, LaTeX without delimiters, as Worker.ask."""
    return WORKER.ask("value", gold, answer)


def same_equation(gold: str, answer: str) -> str:
    """Outcome of two differences left side - right side: right if one is a constant multiple of the other."""
    return WORKER.ask("equation", gold, answer)


def same_relation(gold: str, answer: str) -> str:
    """Outcome of two inequalities or other relations, by math-verify's own comparison."""
    return WORKER.ask("relation", gold, answer)


def values(expressions: list, points=POINTS) -> list[list]:
    """Values of expressions at points: the variables of all, in alphabetical order, take a point's two numbers in turn."""
    from sympy import Float

    variables = sorted(set().union(*(e.free_symbols for e in expressions)), key=lambda symbol: symbol.name)
    tables = []
    for first, step in points:
        place = {v: Float(first, DIGITS) + i * Float(step, DIGITS) for i, v in enumerate(variables)}
        tables.append([e.doit().evalf(DIGITS, subs=place) for e in expressions])
    return tables


def close(one, other) -> bool:
    """Whether two numbers agree to three quarters of DIGITS, relative to the larger; both may be 0."""
    from sympy import Float

    size = max(abs(one), abs(other))
    return bool(size == 0 or abs(one - other) <= size * Float(10) ** (-DIGITS * 3 // 4))


def agree(gold, answer, kind: str) -> bool:
    """Whether two expressions have the same values, or values in one proportion for the sides of equations."""
    ratios = []
    for one, other in values([gold, answer]):
        if one == other and kind == "value":  # infinity too
            continue
        if not (one.is_number and other.is_number and one.is_finite and other.is_finite):
            return False
        if kind == "value" and not close(one, other):
            return False
        if kind == "equation":
            if one == 0 or other == 0:
                return False
            ratios.append(one / other)
    return all(close(ratio, ratios[0]) for ratio in ratios)


def serve() -> None:
    """The worker: kind and a pair of texts per line in, one outcome per line out."""
    import logging

    from latex2sympy2_extended import latex2sympy
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig
    from math_verify import parse, verify
    from sympy import Expr, Float, I, Rational, Symbol

    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    logging.disable(logging.CRITICAL)  # it warns on every call that its time limits are off
    outcomes, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no outcome

    def read(text: str):
        expression = latex2sympy(text, conversion_config=ConversionConfig(lowercase_symbols=False))
        if not isinstance(expression, Expr):
            raise ValueError(f"{text} has no value")
        exact = {number: Rational(str(number)) for number in expression.atoms(Float)}
        return expression.xreplace(exact | {Symbol("i"): I})

    def outcome(kind: str, gold: str, answer: str) -> str:
        if kind == "relation":
            gold, answer = (parse(f"${text}$", parsing_timeout=None) for text in (gold, answer))
            return "right" if answer and verify(gold, answer, timeout_seconds=None) else "wrong"
        gold = read(gold)
        try:
            answer = read(answer)
        except Exception:  # the parser raises bare exceptions for what is no mathematics
            return "no_answer"
        return "right" if agree(gold, answer, kind) else "wrong"

    for line in sys.stdin:
        try:
            said = outcome(*json.loads(line))
        except Exception:  # MemoryError, RecursionError, what sympy raises: an outcome of its own in the results
            said = "error"
        print(said, file=outcomes, flush=True)


if __name__ == "__main__":
    serve()
