"""GSM8K's own questions with new numbers: human wording, exact answers, and as many instances as training asks for.

    python -m cd4lm.data.gsm8k_numbers train.jsonl     # makes the file of templates that the package carries

Templates come from GSM8K's training questions (MIT licence, see GSM8K_LICENSE beside this file). An instance keeps the
text and draws every number that may change near the original one. `train`, `validation` and `numbers` (held out) ask the
same questions with different numbers; `questions` (held out) asks questions of which training sees no instance.
"""

import gzip
import hashlib
import json
import random
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property
from itertools import chain, groupby
from pathlib import Path
from typing import Annotated, Literal

import pydantic.dataclasses
from pydantic import Field

from cd4lm.config import STRICT, Count, exit_with_message, require
from cd4lm.data.gsm8k_question import SLOT, SPREAD, Question
from cd4lm.data.gsm8k_templates import LARGEST, templates_of
from cd4lm.data.rows import check_texts, read_rows
from cd4lm.data.tiny_task import score as score  # the number after ####, as in the embedded task
from cd4lm.data.word_pieces import pieces, word_tokenizer

FILE = Path(__file__).with_name("gsm8k_templates.jsonl.gz")
SOURCE = "openai/grade-school-math, train.jsonl"
LICENCE = "MIT, Copyright (c) 2021 OpenAI; the text is in GSM8K_LICENSE"
SPLITS = ("train", "validation", "numbers", "questions")
COUNTS = {"train": 4000, "validation": 500, "numbers": 1000, "questions": 1000}
KNOWN_IN = 2  # known questions that have a word of an unseen one, at least
LOOKED = 5  # rows looked at for each held-out one that is wanted
SUMS = 10  # lines of a row of bare arithmetic
SIGNS = "+++---*/"  # their shares: up to the same number there are six times as many sums as products
FEWEST = 20  # instances of a question that is worth having


@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class NumbersWorld:
    """The dials of GSM8K's questions with new numbers; fewer questions, smaller numbers and fewer steps are easier.

    templates: how many known questions, null = all; those that have the words of the unseen ones come first. largest: of
    the numbers and results that are drawn, and of the originals. steps: fewest and most results of an answer. tokens: one
    per digit, or one per number. spread: numbers are drawn within this factor of the originals.
    """

    templates: Annotated[int, Field(ge=20)] | None = None
    largest: Annotated[int, Field(ge=20, le=LARGEST)] = LARGEST
    steps: tuple[Count, Count] = (2, 8)
    tokens: Literal["digits", "numbers"] = "digits"
    spread: Annotated[int, Field(ge=2)] = SPREAD

    def __post_init__(self):
        require(self.steps[0] <= self.steps[1], f"steps={list(self.steps)} must be in ascending order")


DEFAULT = NumbersWorld()


def bucket(text: str) -> int:
    """One of ten equal shares that a text belongs to, by its hash."""
    return hashlib.sha256(text.encode()).digest()[0] % 10


@dataclass(frozen=True)
class Pool:
    """The questions of a world. known: with train, validation and numbers; unseen: those of the split questions."""

    world: NumbersWorld
    known: tuple[Question, ...]
    unseen: tuple[Question, ...]

    @cached_property
    def words(self) -> list[str]:
        """Every word and sign of the known questions and their answers, in alphabetical order."""
        return sorted({piece for question in self.known for piece in fixed_pieces(question, self.world.tokens)})

    @cached_property
    def signs(self) -> dict[str, list[str]]:
        """The ways in which the answers write + - * / =, with blanks and dollars around them, and words that can be units."""
        ways = {sign: [word for word in self.words if word.strip(" $") == sign] for sign in "+-*/="}
        ways["*"] += [" x "] if "x" in self.words else []
        return ways | {"units": [word for word in self.words if re.fullmatch("[a-z]{3,}", word)]}

    def row(self, split: str, index: int, seed: int = 0) -> dict[str, str]:
        """Row `index` of a split: question, answer and key; the same for the same arguments, for ever."""
        rng = random.Random(f"{seed}/{split}/{index}")
        questions = self.unseen if split == "questions" else self.known
        while True:
            question = rng.choice(questions)
            values = question.draw(rng, self.world.largest)
            if values is None:  # few draws of this one fit
                continue
            text, answer = question.write(values)
            if split_of(text) == split or split == "questions":
                drawn = ",".join(str(values[f"q{i}"]) for i in range(len(question.numbers)))
                return {"question": text, "answer": answer, "key": f"{question.id}:{drawn}"}

    def rows(self, split: str, count: int, seed: int = 0) -> list[dict[str, str]]:
        """Rows of a split; held-out ones ask different questions, and are fewer if there are not as many."""
        if split == "train":
            return [self.row(split, index, seed) for index in range(count)]
        found: dict[str, dict[str, str]] = {}
        for index in range(LOOKED * count):
            row = self.row(split, index, seed)
            found.setdefault(row["question"], row)
            if len(found) == count:
                break
        return list(found.values())

    def instances(self) -> dict[str, dict[str, int]]:
        """How many instances each question has, by split and GSM8K's row; estimates where there are over a thousand."""
        both = {"known": self.known, "unseen": self.unseen}
        largest = self.world.largest
        return {name: {str(q.id): q.instances(largest) for q in questions} for name, questions in both.items()}


def split_of(question: str) -> str:
    """The split that an instance of a known question belongs to, by its text: a tenth held out, a tenth validation."""
    return {0: "numbers", 1: "validation"}.get(bucket(question), "train")


def fixed_pieces(question: Question, tokens: str) -> set[str]:
    """The tokens of a question and its answer, 0 standing for the numbers that change."""
    texts = [SLOT.sub("0", text) for text in (question.question, question.answer)]
    return {piece for text in texts for piece in pieces(text, tokens)}


def pool_of(questions: Iterable[Question], world: NumbersWorld = DEFAULT) -> Pool:
    """The questions that a world's dials leave, some of them unseen. Raises ValueError if too few are left.

    Questions that ask nearly the same are on one side.
    """
    few, many = world.steps
    fits = [q for q in questions if few <= len(q.steps) <= many and q.largest <= world.largest]
    fits = [q if q.spread == world.spread else replace(q, spread=world.spread) for q in fits]
    fits.sort(key=lambda q: hashlib.sha256(f"order/{q.id}".encode()).digest())
    ids = set(held_out(fits, world.tokens))
    known, unseen = ([q for q in fits if (q.id in ids) is held] for held in (False, True))
    if world.templates is not None:
        require(world.templates <= len(known), f"templates={world.templates} but only {len(known)} known questions fit")
        known = covering(known, unseen, world.templates, world.tokens)
        words = Counter(chain.from_iterable(fixed_pieces(q, world.tokens) for q in known))
        unseen = [q for q in unseen if all(words[word] >= KNOWN_IN for word in fixed_pieces(q, world.tokens))]
    require(bool(unseen), f"{len(known)} known questions leave none unseen: raise templates, largest or steps")
    return Pool(world, tuple(known), tuple(unseen))


def covering(known: Sequence[Question], unseen: Sequence[Question], count: int, tokens: str) -> list[Question]:
    """`count` of the known questions: first, one by one, the one with most of the unseen ones' words still wanted."""
    words = {q.id: fixed_pieces(q, tokens) for q in known}
    wanted = dict.fromkeys(chain.from_iterable(fixed_pieces(q, tokens) for q in unseen), KNOWN_IN)
    rest, chosen = list(known), []
    while len(chosen) < count:
        best = max(rest, key=lambda q: sum(wanted.get(word, 0) > 0 for word in words[q.id]))  # the first of equals
        rest.remove(best)
        chosen.append(best)
        for word in words[best.id] & wanted.keys():
            wanted[word] -= 1
    return chosen


def held_out(questions: Sequence[Question], tokens: str) -> Iterator[int]:
    """Rows of the questions to hold out, in order until they are a tenth, each with all that ask nearly the same.

    Every word that they have stands in KNOWN_IN of the other questions at least: a word never seen cannot be read.
    """
    words = {q.id: fixed_pieces(q, tokens) for q in questions}
    left, groups, wanted = Counter(chain.from_iterable(words.values())), defaultdict(list), len(questions) // 10
    for question in questions:
        groups[question.group].append(question.id)
    for group in groups.values():
        lost = Counter(chain.from_iterable(words[i] for i in group))
        if wanted >= len(group) and all(left[word] - count >= KNOWN_IN for word, count in lost.items()):
            left -= lost
            wanted -= len(group)
            yield from group


@cache
def sourced(world: NumbersWorld = DEFAULT, file: str | None = None) -> tuple[dict, Pool]:
    """Counts of the source and the questions of a world; from GSM8K's training file, null = the package's templates."""
    if file is None:
        header, questions = read_templates()
        return {name: header[name] for name in ("rows", "usable", "left_out")}, pool_of(questions, world)
    rows = list(read_rows(file))
    questions, reasons = templates_from(rows, file)
    return counts_of(len(rows), questions, reasons), pool_of(questions, world)


def pool(world: NumbersWorld = DEFAULT) -> Pool:
    """The questions of a world from the templates that the package carries."""
    return sourced(world)[1]


def build_tokenizer(world: NumbersWorld = DEFAULT):
    """The tokenizer of a world, of the words of its known questions."""
    return word_tokenizer(pool(world).words, world.tokens, world.largest)


def make_row(split: str, index: int, seed: int = 0, world: NumbersWorld = DEFAULT) -> dict[str, str]:
    """Row `index` of a split of a world."""
    return pool(world).row(split, index, seed)


def make_sums(index: int, seed: int = 0, world: NumbersWorld = DEFAULT) -> dict[str, str]:
    """Row `index` of bare arithmetic, as in `12 boxes * 4 = $48`, of the numbers up to a world's largest, a result a line.

    Rows to learn sums from: in a masked state of a whole answer most results can be read off where they are said again.
    Signs are written in every way in which the answers write them, and half the lines have some word as unit.
    """
    rng, lines = random.Random(f"{seed}/sums/{index}"), []
    ways = pool(world).signs
    while len(lines) < SUMS:
        sign, (a, b) = rng.choice(SIGNS), (rng.randint(2, world.largest) for _ in range(2))
        if sign in "*/":
            b = rng.randint(2, max(2, world.largest // a))
        whole = a + b if sign in "+-" else a * b
        if whole <= world.largest:
            first, second, result = (a, b, whole) if sign in "+*" else (whole, a, b)
            unit = f" {rng.choice(ways['units'])}" if rng.random() < 0.5 else ""
            operation, equals = rng.choice(ways[sign]), rng.choice(ways["="])
            lines.append(f"{first}{unit}{operation}{second}{unit}{equals}{result}")
    return {"question": "=", "answer": "\n".join(lines)}  # no prompt may be empty


def results_of(tokenizer, ids: Sequence[int]) -> list[bool]:
    """Which tokens of a row of bare arithmetic are results: the digits or the number right after an equals sign."""
    found, result = [], False
    for token in tokenizer.convert_ids_to_tokens(ids):
        found.append(result and token.isdigit())
        result = found[-1] or token.strip(" $") == "="
    return found


def one_result_of(tokenizer, prompt: Sequence[int], answer: Sequence[int], rng: random.Random) -> list[bool]:
    """Which tokens of an answer say one of its results, a number that the prompt does not have, wherever it is said."""
    values = [number_at(tokenizer.convert_ids_to_tokens(ids)) for ids in (prompt, answer)]
    results = sorted(set(values[1]) - set(values[0]) - {""})
    chosen = rng.choice(results) if results else None
    return [value == chosen if results else True for value in values[1]]


def number_at(tokens: Sequence[str]) -> list[str]:
    """The whole number that every token is a part of, empty where it is of none."""
    runs = [(digits, list(run)) for digits, run in groupby(tokens, str.isdigit)]
    return [("".join(run) if digits else "") for digits, run in runs for _ in run]


def templates_from(rows: Sequence[dict], source: str) -> tuple[list[Question], Counter]:
    """The usable questions of GSM8K's training rows, and how many rows were left out for each reason."""
    check_texts(rows, ("question", "answer"), source)
    found, reasons = templates_of(rows)
    questions = [Question(**vars(template)) for template in found]
    usable = [question for question in questions if question.instances() >= FEWEST]
    reasons[f"fewer than {FEWEST} instances"] = len(questions) - len(usable)
    return usable, reasons


def read_templates(path: Path = FILE) -> tuple[dict, list[Question]]:
    """The header of a file of templates (source, licence, counts) and its questions."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        header, *rows = map(json.loads, file)
    return header, [Question(**row | {name: tuple(row[name]) for name in ("numbers", "steps")}) for row in rows]


def counts_of(total: int, questions: Sequence[Question], reasons: Counter) -> dict:
    """How many rows there were, how many are usable, and why the others are not."""
    return {"rows": total, "usable": len(questions), "left_out": dict(reasons.most_common())}


def write_templates(path: Path, rows: Sequence[dict], source: str) -> dict:
    """Write the templates of GSM8K's training rows; the same rows give the same bytes. Returns the counts."""
    questions, reasons = templates_from(rows, source)
    counts = counts_of(len(rows), questions, reasons)
    kept = [{name: value for name, value in asdict(q).items() if name != "spread"} for q in questions]
    lines = [{"source": SOURCE, "licence": LICENCE, **counts}, *kept]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    path.write_bytes(gzip.compress(text.encode(), mtime=0))
    return counts


def main():
    require(len(sys.argv) == 2, "name one file: GSM8K's train.jsonl")
    print(json.dumps(write_templates(FILE, list(read_rows(sys.argv[1])), sys.argv[1]), indent=2))


if __name__ == "__main__":
    exit_with_message(main)
