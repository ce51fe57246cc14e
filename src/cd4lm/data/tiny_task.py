"""The embedded task: grade-school arithmetic in words with worked answers, small enough for a laptop.

Numbers are single tokens. Each step of an answer is worded in one of up to eight ways drawn at random, with the operands
of + and * in either order. A model that fills several positions at once must therefore agree with itself on a wording it
has not yet chosen: the answer distribution has many modes, which is what makes parallel commitment fail. How many, and
how long an answer is, are the dials of a World.
"""

import hashlib
import math
import random
import re
from dataclasses import dataclass
from typing import Annotated

import pydantic.dataclasses
from pydantic import Field

from cd4lm.config import STRICT, Count

NAMES = ("tom", "mia", "leo", "ana", "sam", "eva", "ben", "zoe", "max", "ida")
OBJECTS = ("apples", "books", "coins", "pens", "cards", "shells", "stamps", "cups", "keys", "toys")
PACKS = ("bags", "boxes", "packs")
GAINS = ("buys", "finds", "gets", "wins")
LOSSES = ("gives", "loses", "eats", "sells")
WORDINGS = (
    "{a} {op} {b} = {c} .",
    "{name} has {a} {op} {b} = {c} {obj} .",
    "we get {c} from {a} {op} {b} .",
    "so {a} {op} {b} makes {c} {obj} .",
    "now {c} {obj} since {a} {op} {b} .",
    "then {c} {obj} remain : {a} {op} {b} .",
    "{a} {op} {b} leaves {name} {c} {obj} .",
    "count {a} {op} {b} : {c} {obj} .",
)
MAX_VALUE = 20
OPERAND = (1, 4)


@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class World:
    """The dials of the embedded task.

    wordings: ways to word a step, the last so many of WORDINGS, which are nearly of one length; 1 also keeps the operands
    in the problem's order, so that a question has exactly one answer. chain: steps of a problem, each as likely.
    Questions and arithmetic do not depend on `wordings`.
    """

    wordings: Annotated[int, Field(ge=1, le=len(WORDINGS))] = len(WORDINGS)
    chain: Annotated[tuple[Count, ...], Field(min_length=1)] = (2, 3, 4)


DEFAULT = World()


@dataclass(frozen=True)
class Problem:
    """One problem: a start value and steps (operator, operand), the value never leaving 0..MAX_VALUE."""

    start: int
    steps: tuple[tuple[str, int], ...]

    @property
    def key(self) -> str:
        return f"{self.start}" + "".join(f"{op}{operand}" for op, operand in self.steps)


def apply(value: int, op: str, operand: int) -> int:
    return {"+": value + operand, "-": value - operand, "*": value * operand}[op]


def split_of(problem: Problem) -> str:
    """The split a problem belongs to, by its arithmetic alone: a tenth of all keys test, a tenth validation."""
    bucket = hashlib.sha256(problem.key.encode()).digest()[0] % 10
    return {0: "test", 1: "validation"}.get(bucket, "train")


def draw_problem(rng: random.Random, world: World = DEFAULT) -> Problem:
    """A random problem: a tenth starts with packs of equal size, others may double in the middle."""
    steps = []
    value = start = rng.randint(2, 10)
    for position in range(rng.choice(world.chain)):
        choices = [("+", k) for k in range(OPERAND[0], OPERAND[1] + 1) if value + k <= MAX_VALUE]
        choices += [("-", k) for k in range(OPERAND[0], OPERAND[1] + 1) if value - k >= 0]
        if position == 0 and value <= 5 and rng.random() < 0.4:
            choices = [("*", k) for k in range(2, 5)]
        elif 1 <= value <= MAX_VALUE // 2 and rng.random() < 0.15:
            choices = [("*", 2)]
        op, operand = rng.choice(choices)
        steps.append((op, operand))
        value = apply(value, op, operand)
    return Problem(start, tuple(steps))


def word_question(problem: Problem, name: str, obj: str, rng: random.Random) -> str:
    """The problem told in words, for instance `tom has 7 apples . buys 3 . gives 2 . how many ?`"""
    steps = list(problem.steps)
    if steps[0][0] == "*" and (steps[0][1] != 2 or rng.random() < 0.5):
        sentences = [f"{name} has {problem.start} {rng.choice(PACKS)} of {steps.pop(0)[1]} {obj}"]
    else:
        sentences = [f"{name} has {problem.start} {obj}"]
    for op, operand in steps:
        sentences.append("doubles it" if op == "*" else f"{rng.choice(GAINS if op == '+' else LOSSES)} {operand}")
    return " . ".join(sentences) + " . how many ?"


def word_answer(problem: Problem, name: str, obj: str, rng: random.Random, wordings: int = len(WORDINGS)) -> str:
    """A worked answer, every step in a wording of its own, closed by `#### result`; see World for `wordings`."""
    value, parts = problem.start, []
    for op, operand in problem.steps:
        a, b, c = value, operand, apply(value, op, operand)
        if op != "-" and wordings > 1 and rng.random() < 0.5:
            a, b = b, a
        parts.append(rng.choice(WORDINGS[-wordings:]).format(a=a, b=b, c=c, op=op, name=name, obj=obj))
        value = c
    return " ".join(parts) + f" #### {value}"


def answer_bits(key: str, wordings: int) -> float:
    """Entropy in bits of a problem's answer given its question: each step's wording, and the order of its operands."""
    if wordings == 1:
        return 0.0
    steps = [op for op in key if op in "+-*"]
    return len(steps) * math.log2(wordings) + sum(op != "-" for op in steps)


def make_row(split: str, index: int, seed: int = 0, world: World = DEFAULT) -> dict[str, str]:
    """Row `index` of a split: question, answer and arithmetic key; the same for the same arguments, for ever."""
    rng = random.Random(f"{seed}/{split}/{index}")
    problem = draw_problem(rng, world)
    while split_of(problem) != split:
        problem = draw_problem(rng, world)
    name, obj = rng.choice(NAMES), rng.choice(OBJECTS)
    return {
        "question": word_question(problem, name, obj, rng),
        "answer": word_answer(problem, name, obj, rng, world.wordings),
        "key": problem.key,
    }


def vocabulary() -> list[str]:
    """Every word of the task, in a fixed order."""
    fixed = [word for wording in WORDINGS for word in wording.split() if not word.startswith("{")]
    words = [*fixed, "+", "-", "*", "has", "of", "doubles", "it", "how", "many", "?", "####"]
    words += [*NAMES, *OBJECTS, *PACKS, *GAINS, *LOSSES, *(str(n) for n in range(100))]
    return list(dict.fromkeys(words))


def final_number(text: str) -> int | None:
    """The integer after the last `####`, or None where there is none."""
    found = re.findall(r"####\s*(-?\d+)", text)
    return int(found[-1]) if found else None


def score(doc: dict, response: str) -> bool:
    """Whether the response ends in the number that doc["answer"] ends in; a missing number is wrong."""
    return final_number(response) is not None and final_number(response) == final_number(doc["answer"])
