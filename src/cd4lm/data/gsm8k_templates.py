"""Templates from GSM8K's training questions: the same text with other numbers, and the arithmetic that answers it.

    question  Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. ...
    answer    Natalia sold 48/2 = <<48/2=24>>24 clips in May.
              Natalia sold 48+24 = <<48+24=72>>72 clips altogether in April and May.
              #### 72

becomes `Natalia sold clips to {q0} of her friends ...`, `Natalia sold {q0}/2 = {r0} clips in May. ...`, numbers [48] and
steps `q0/2`, `q0+r0`. A row is left out, with a counted reason, wherever it is not certain what a number stands for.
"""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

from cd4lm.data.arithmetic import RANK, Expression, NotArithmetic, constant, tokens_of
from cd4lm.data.number_words import TIED_WORDS, fixed_numbers, is_fixed, said_by_words, words_of

LARGEST = 999  # above, numbers are written with and without commas
ALIKE = 0.7  # share of the words in which two questions agree that must not be in training and in test
NUMBER = re.compile(r"\d+(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|(?<!\d)\.\d+")
BRACKET = re.compile(r"<<([^<>]*)>>")
QUOTES = str.maketrans(
    {"’": "'", "‘": "'", "“": '"', "”": '"', "−": "-", "–": "-", "—": "-", "×": "x", "÷": "/", "\u200b": None}
)


class Unusable(ValueError):
    """Why a row makes no template; the message is the reason that is counted."""


@dataclass(frozen=True)
class Template:
    """A question and its answer with slots. id: the row's number in GSM8K's training file, from 0.

    numbers: GSM8K's own for q0, q1, ...; steps: the arithmetic of r0, r1, ... in order; check: of the original text;
    group: the first row of those that ask nearly the same.
    """

    id: int
    question: str
    answer: str
    numbers: tuple[int, ...]
    steps: tuple[str, ...]
    check: str
    group: int = -1


def tidy(text: str) -> str:
    """A text with plain quotes and signs (NFKC), `3 x 4` for 3x4, single blanks and none at the ends of lines."""
    text = unicodedata.normalize("NFKC", text.translate(QUOTES))
    text = re.sub(r"(?<=\d)[^\S\n]?[xX][^\S\n]?(?=\$?\d)", " x ", text)
    return "\n".join(" ".join(line.split()) for line in text.strip().splitlines() if line.strip())


def original_check(question: str, answer: str) -> str:
    """Twelve hexadecimal digits of a question and an answer without brackets, both tidy."""
    return hashlib.sha256(f"{question}\n{answer}".encode()).hexdigest()[:12]


@dataclass
class Row:
    """A row while it is read: its numbers by place, brackets by place, and which question numbers may change."""

    question: str
    answer: str
    spans: dict[str, tuple[int, int]] = field(default_factory=dict)
    values: dict[str, int | Fraction] = field(default_factory=dict)
    constants: set[Fraction] = field(default_factory=set)
    moving: set[str] = field(default_factory=set)
    results: list[int | Fraction] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)

    def is_whole(self, name: str) -> bool:
        return name in self.spans and name not in self.moving


class Ambiguous(Exception):
    """A number that could be several things, of which these question numbers can be left as they are."""

    def __init__(self, names: set[str]):
        super().__init__(names)
        self.names = names


def template_of(index: int, question: str, answer: str) -> Template:
    """The template of a row. Raises Unusable."""
    question, answer = tidy(question), tidy(answer)
    if set("{}") & set(question + answer):
        raise Unusable("braces in the text")
    left_alone: set[str] = set()
    while True:
        row = read_question(question, answer, left_alone)
        if not row.moving:
            raise Unusable("no number of the question can change")
        try:
            return build(index, row)
        except Ambiguous as found:  # two question numbers, or one and a constant: certain once neither changes
            left_alone |= found.names


def read_question(question: str, answer: str, left_alone: set[str]) -> Row:
    """The numbers of a question: those that may change, and the values of those that stay."""
    row = Row(question, answer, constants=fixed_numbers(question))
    for place, match in enumerate(NUMBER.finditer(question)):
        name, before, after = f"q{place}", question[: match.start()], question[match.end() :]
        number = constant(match[0].replace(",", ""))
        if name in left_alone or is_fixed(match[0], before, after, LARGEST):
            row.constants |= {number, number / 100} if re.match(r"\s?(%|percent)", after) else {number}
            continue
        row.spans[name], row.values[name] = match.span(), int(number)
        row.moving.add(name)
    return row


def candidates(row: Row, number: Fraction, results: int) -> set[str]:
    """Names of what a value may be: question numbers, the first `results` results that depend on them, or `constant`."""
    found = {name for name, value in row.values.items() if name[0] == "q" and value == number}
    found |= {f"r{i}" for i in range(results) if row.results[i] == number and f"r{i}" in row.moving}
    stays = {row.results[i] for i in range(results) if f"r{i}" not in row.moving}
    if number in row.constants or number in stays or number == 1:
        found.add("constant")
    return found


def resolve(row: Row, text: str, results: int, where: str) -> str:
    """The name of a number, or its text where it is constant. Raises Unusable, or Ambiguous where leaving alone helps."""
    number = constant(text.replace(",", ""))
    found = candidates(row, number, results)
    if not found:
        raise Unusable(f"a number of {where} is not explained")
    if len(found) > 1:
        movable = {name for name in found if name[0] == "q"}
        if any(name[0] == "r" for name in found):
            raise Unusable(f"a number of {where} could be two things")
        raise Ambiguous(movable)
    name = found.pop()
    if name == "constant":
        return text
    if text != str(int(number)):
        raise Unusable("a number that changes is not written as a plain whole number")
    return name


def read_brackets(row: Row) -> list[re.Match]:
    """The brackets of the answer, in order; fills row.steps, results and moving."""
    brackets = list(BRACKET.finditer(row.answer))
    if not brackets:
        raise Unusable("no arithmetic in brackets")
    for bracket in brackets:
        left, sign, right = bracket[1].replace("$", "").replace(",", "").rpartition("=")
        try:
            tokens = tokens_of(left.replace("x", "*").replace("X", "*"))
            plain = Expression.parse("".join(tokens))
            stated = Expression.parse(right).values({})[-1]
        except NotArithmetic:
            raise Unusable("arithmetic that is not + - * / of numbers") from None
        if not sign or plain.values({})[-1] != stated:
            raise Unusable("arithmetic that is rounded or wrong")
        operator = [t in RANK or t in "()" for t in tokens]
        named = [
            t if o else resolve(row, t, len(row.results), "the arithmetic")
            for t, o in zip(tokens, operator, strict=True)
        ]
        name = f"r{len(row.results)}"
        if Expression.parse("".join(named)).symbols:
            row.moving.add(name)
            if type(stated) is not int or not 0 < stated <= LARGEST:
                raise Unusable(f"a result is not whole, or outside 1 to {LARGEST}")
        row.steps.append("".join(named))
        row.results.append(stated)
        row.values[name] = stated
    return brackets


def write_answer(row: Row, brackets: list[re.Match]) -> str:
    """The answer with slots and without brackets, up to its last line."""
    body, sign, label = row.answer.rpartition("####")
    if not sign:
        raise Unusable("no #### in the answer")
    pieces, end = [], 0
    for i, bracket in enumerate(brackets):
        pieces.append(slotted(row, body[end : bracket.start()], known_on_line(body, brackets, i), row.steps[i]))
        shown = re.match(r"(\s*\$?\s*)(" + NUMBER.pattern + ")", body[bracket.end() :])
        if shown is None or constant(shown[2].replace(",", "")) != row.results[i]:
            raise Unusable("the result of a bracket is not written after it")
        moves = f"r{i}" in row.moving
        if moves and shown[2] != str(row.results[i]):
            raise Unusable("a number that changes is not written as a plain whole number")
        if moves and re.match(r"[A-Za-z]", body[bracket.end() + shown.end() :]):
            raise Unusable("a number that changes is part of a word")
        pieces.append(shown[1] + (f"{{r{i}}}" if moves else shown[2]))
        end = bracket.end() + shown.end()
    pieces.append(slotted(row, body[end:], len(brackets), None))
    last = len(brackets) - 1
    label = label.strip().replace(",", "")
    if label != str(row.results[last]) or f"r{last}" not in row.moving:
        raise Unusable("the last bracket is not the answer")
    return "".join(pieces).rstrip() + f"\n#### {{r{last}}}"


def known_on_line(body: str, brackets: list[re.Match], i: int) -> int:
    """How many results may be named before bracket i: those up to the end of its line."""
    stop = body.find("\n", brackets[i].start())
    return sum(b.start() < (stop if stop >= 0 else len(body)) for b in brackets)


def slotted(row: Row, text: str, known: int, step: str | None) -> str:
    """A stretch of the answer between brackets with its numbers replaced by slots.

    The numbers that spell the arithmetic before its bracket are its operands, in order; others go by their value.
    """
    found = list(NUMBER.finditer(text))
    operands = [] if step is None else [t for t in tokens_of(step) if t not in RANK and t not in "()"]
    values = [constant(t) if t[0] not in "qr" else row.values[t] for t in operands]
    tail = found[len(found) - len(operands) :] if 0 < len(operands) <= len(found) else []
    spelled = [constant(m[0].replace(",", "")) for m in tail] == values and bool(tail)
    names = {m.start(): name for m, name in zip(tail, operands, strict=True)} if spelled else {}
    pieces, end = [], 0
    for match in found:
        if re.search(r"=\s*\$?\s*$", text[: match.start()]):
            raise Unusable("arithmetic outside brackets")
        name = names.get(match.start()) or resolve(row, match[0], known, "the text")
        moves = name in row.moving
        in_word = re.match(r"[A-Za-z]", text[match.end() :]) or re.search(r"[A-Za-z]$", text[: match.start()])
        if moves and (in_word or match[0] != str(row.values[name])):
            raise Unusable("a number that changes is part of a word")
        pieces.append(text[end : match.start()] + (f"{{{name}}}" if moves else match[0]))
        end = match.end()
    return "".join(pieces) + text[end:]


def build(index: int, row: Row) -> Template:
    """The template of a row that has been read. Raises Unusable, or Ambiguous."""
    brackets = read_brackets(row)
    answer = write_answer(row, brackets)
    used = {symbol for step in row.steps for symbol in Expression.parse(step).symbols}
    if idle := {name for name in row.spans if name not in used}:
        if any(f"{{{name}}}" in answer for name in idle):
            raise Unusable("a number of the question is named but not used")
        raise Ambiguous(idle)  # it may say the same as another number, so it stays
    check_words(row, answer)
    numbers = [row.values[name] for name in row.spans]
    question, answer, steps = renamed(row, answer)
    plain = BRACKET.sub("", row.answer).replace("####", "\n####")
    original = original_check(row.question, tidy(re.sub(r"\n*#### *", "\n#### ", plain)))
    return Template(index, question, answer, tuple(numbers), tuple(steps), original)


def check_words(row: Row, answer: str) -> None:
    """Numbers in words stay as they are: in the answer they must be the question's, and stand for no number that moves."""
    asked, said = words_of(row.question), words_of(answer)
    if (said & TIED_WORDS) - asked:
        raise Unusable("a number in words that the question does not have")
    if same := {name for name in row.spans if row.values[name] in said_by_words(asked | said)}:
        raise Ambiguous(same)


def renamed(row: Row, answer: str) -> tuple[str, str, list[str]]:
    """Question, answer and steps with the moving question numbers counted from q0."""
    names = {old: f"q{i}" for i, old in enumerate(row.spans)}
    question, end = "", 0
    for old, (start, stop) in row.spans.items():
        question += row.question[end:start] + f"{{{names[old]}}}"
        end = stop
    question += row.question[end:]
    answer = re.sub(r"\{(q\d+)\}", lambda m: f"{{{names[m[1]]}}}", answer)
    steps = [re.sub(r"q\d+", lambda m: names[m[0]], step) for step in row.steps]
    return question, answer, steps


def templates_of(rows: Iterable[dict]) -> tuple[list[Template], Counter]:
    """The templates of GSM8K's rows, and how many rows were left out for each reason."""
    found, reasons = [], Counter()
    for index, row in enumerate(rows):
        try:
            found.append(template_of(index, row["question"], row["answer"]))
        except Unusable as reason:
            reasons[str(reason)] += 1
    return grouped(found), reasons


def grouped(templates: Sequence[Template]) -> list[Template]:
    """The templates with the first of those that ask nearly the same in mostly the same words, directly or in a chain."""
    words = [frozenset(w for w in re.findall(r"\b[a-z]{3,}\b", t.question)) for t in templates]
    first = list(range(len(templates)))
    for i, mine in enumerate(words):
        alike = [j for j in range(i) if len(mine & words[j]) >= ALIKE * max(len(mine), len(words[j]))]
        joined = {first[j] for j in alike} | {i}
        first = [min(joined) if f in joined else f for f in first] if alike else first
    return [replace(t, group=templates[f].id) for t, f in zip(templates, first, strict=True)]
