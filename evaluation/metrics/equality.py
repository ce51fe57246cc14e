"""Whether the structures of two mathematical answers are the same; leaves are numbers, or go to math-verify's process."""

import re

from evaluation.metrics import structures
from evaluation.metrics.math_equality import equal, same_equation, same_relation
from evaluation.metrics.quantities import value
from evaluation.metrics.structures import BASED, GROUP, LEAF, MATRIX, RELATION, SEVERAL, Part
from evaluation.metrics.symbols import CURRENCY
from evaluation.metrics.units import is_known
from evaluation.metrics.verdict import NO_ANSWER, RIGHT, WRONG
from evaluation.metrics.wrappers import is_negated, peel, without_marks

_CHOICE = re.compile(r"\\text\s*\{\s*\(?([A-Z])\)?\s*\}|\(([A-Z])\)")
_CHOSEN = re.compile(
    r"(?:(?:option|choice|letter|answer)\s*)?(?:\((?P<a>[A-Z])\)|(?P<b>[A-Z])(?:[).:]|(?=\s*$)))(?P<rest>.*)",
    re.DOTALL | re.IGNORECASE,
)
_WORDS = re.compile(r"\\text\s*\{(?P<text>[^{}]*[A-Za-z]{2}[^{}]*)\}|(?P<plain>[A-Za-z]{3,}(?:[ -][A-Za-z]+)*)")
_ARTICLES = re.compile(r"\b(?:the|an?|it|is|its|he|she|they|are|option|answer|facing|function|direction)\b")
_FUNCTIONS = re.compile(
    r"(?<![\\A-Za-z])(arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|ln|log|exp)(?![a-z])"
)
_REPEATING = re.compile(r"(\d*)\.(\d*)\\overline\s*\{(\d+)\}")
_VARIABLE = re.compile(r"[A-Za-z]|\\[a-z]+")


def same(gold: str, answer: str, percent_is_unit: bool = True) -> str:
    """Outcome of an answer against the gold one, both in the one way of writing (symbols.clean).

    percent_is_unit: whether 20% is also 20, as where the problem asks for percents; it is always 1/5.
    """
    if squashed(gold) == squashed(answer):
        return RIGHT
    if choice := _CHOICE.fullmatch(gold.strip()):
        return RIGHT if chosen(answer) == (choice[1] or choice[2]) else WRONG
    if words := _WORDS.fullmatch(gold.strip()):
        return RIGHT if plain_words(answer) == plain_words(words["text"] or words["plain"]) else WRONG
    if is_negated(answer):
        return WRONG
    no_variables = not re.search(r"(?<![\\A-Za-z])[A-Za-z](?![A-Za-z])", gold)
    return same_part(structures.parse(gold), structures.parse(answer, no_variables), percent_is_unit)


def squashed(text: str) -> str:
    """A text without wrappers, marks, and spaces but between digits."""
    return re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", without_marks(peel(text)))


def chosen(answer: str) -> str | None:
    """The letter that an answer to a multiple-choice question names, if it names one: `(B)`, `B) 42`, `Option B`."""
    text = re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", without_marks(peel(answer))).strip()
    found = _CHOSEN.fullmatch(text)
    if found is None or is_negated(text) or re.search(r"\([A-Z]\)|\b(?:or|and)\s+[A-Z]\b", found["rest"]):
        return None
    return (found["a"] or found["b"]).upper()


def plain_words(text: str) -> str:
    """Words without articles, case and marks; a denial stays."""
    text = re.sub(r"\\text\s*\{([^{}]*)\}", r" \1 ", without_marks(peel(text))).lower()
    return " ".join(re.sub(r"[^\w' ]", " ", _ARTICLES.sub(" ", text)).split())


def same_part(gold: Part, answer: Part, percent_is_unit: bool) -> str:
    """Outcome of one part against the gold one."""
    if gold.name and answer.name and gold.name != answer.name and _variables(gold.name, answer.name):
        return same_as_equation(gold, answer)
    if gold.kind == RELATION or (answer.kind == RELATION and gold.name and gold.kind == LEAF):
        return same_as_equation(gold, answer)
    if answer.kind == RELATION and answer.parts:  # `f(3) + 1 = 10`: what is asked, then its value
        outcomes = [same_part(gold, part, percent_is_unit) for part in answer.parts]
        return RIGHT if RIGHT in outcomes else outcomes[0]
    if gold.kind == SEVERAL:
        return same_in_any_order(gold, answer, percent_is_unit)
    if answer.kind == SEVERAL and gold.kind != GROUP:  # one value, written in several ways: `1/4, or 0.25`
        return RIGHT if all(same_part(gold, part, percent_is_unit) == RIGHT for part in answer.parts) else WRONG
    if gold.kind == LEAF and answer.kind == BASED and answer.mark == "10":
        answer = Part(LEAF, answer.text)
    if BASED in (gold.kind, answer.kind):
        bare = answer.kind == LEAF and gold.kind == BASED and answer.text == gold.text  # the digits, without the base
        alike = gold.kind == answer.kind and (gold.text, gold.mark) == (answer.text, answer.mark)
        return RIGHT if bare or alike else WRONG
    if gold.kind == GROUP:
        answer = structures.as_point(answer)
    if gold.kind != answer.kind:
        return WRONG
    if gold.kind in (GROUP, MATRIX):
        if gold.mark != answer.mark or len(gold.parts) != len(answer.parts):
            return WRONG
        outcomes = (same_part(*pair, percent_is_unit) for pair in zip(gold.parts, answer.parts, strict=True))
        return next((outcome for outcome in outcomes if outcome != RIGHT), RIGHT)
    return same_leaf(gold, answer, percent_is_unit)


def _variables(*names: str) -> bool:
    return all(_VARIABLE.fullmatch(name) for name in names)


def same_as_equation(gold: Part, answer: Part) -> str:
    """Outcome where one of the two is an equation or inequality that is no definition of a name."""
    if gold.mark not in ("", "=") or answer.mark not in ("", "="):
        return same_relation(gold.text, answer.text) if gold.mark == answer.mark else WRONG
    gold_text, answer_text = (_difference(part) for part in (gold, answer))
    return same_equation(gold_text, answer_text) if gold_text and answer_text else WRONG


def _difference(part: Part) -> str | None:
    if part.kind == RELATION:
        return for_parser(part.text)
    named = part.kind == LEAF and part.name and _VARIABLE.fullmatch(part.name)
    return f"{part.name}-({for_parser(part.text)})" if named else None


def same_in_any_order(gold: Part, answer: Part, percent_is_unit: bool) -> str:
    """Outcome of several parts, each of which must have its own partner."""
    if answer.kind != SEVERAL or len(gold.parts) != len(answer.parts):
        return WRONG
    left, outcome = list(answer.parts), RIGHT
    for part in gold.parts:
        outcomes = [same_part(part, other, percent_is_unit) for other in left]
        if RIGHT not in outcomes:
            return next((o for o in outcomes if o not in (WRONG, NO_ANSWER)), WRONG)
        left.pop(outcomes.index(RIGHT))
    return outcome


def same_leaf(gold: Part, answer: Part, percent_is_unit: bool) -> str:
    """Outcome of two numbers or expressions with their units."""
    outcomes = [
        same_expression(scaled_text(gold.text, factors[0]), scaled_text(answer.text, factors[1]))
        for factors in unit_factors(gold.unit, answer.unit, percent_is_unit)
    ]
    return next((o for o in (RIGHT, *outcomes) if o in outcomes), WRONG)


def scaled_text(text: str, factor: int) -> str:
    text = for_parser(text)
    return text if factor == 1 or not text else f"({text})*{factor}"


def same_expression(gold: str, answer: str) -> str:
    """Outcome of two expressions without units."""
    if not gold or not answer:
        return NO_ANSWER
    if squashed(gold) == squashed(answer):
        return RIGHT
    gold_value, answer_value = value(gold), value(answer)
    if gold_value is not None and answer_value is not None:
        return RIGHT if gold_value == answer_value else WRONG
    if has_words(answer, gold) or re.search(r"\d\s+[\d.]|\d\s*:", answer):  # it would read 1 2 as 12, 10:1 as 10
        return NO_ANSWER
    return equal(gold.replace("*", r"\cdot "), answer.replace("*", r"\cdot "))


def has_words(answer: str, gold: str) -> bool:
    """Whether an answer holds words, which the parser would take for products of their letters: "is 0" for i s 0."""
    letters = set(re.findall(r"[A-Za-z]", re.sub(r"\\[A-Za-z]+", " ", gold)))
    return any(not letters >= set(word) for word in re.findall(r"(?<![\\A-Za-z])[A-Za-z]{2,}", answer))


def unit_factors(gold: str | None, answer: str | None, percent_is_unit: bool) -> list[tuple[int, int]]:
    """Pairs of factors (gold, answer) under one of which the two must be equal; none where the units differ.

    A unit that only one of the two has is taken for granted, but for a percent sign where no percents are asked for.
    """
    if answer == "percent" and gold != "percent":
        return [(1, 1), (100, 1)] if percent_is_unit else [(100, 1)]
    if {gold, answer} == {"cent", "dollar"}:
        return [(1, 100) if gold == "cent" else (100, 1)]
    differ = gold is not None and answer is not None and gold != answer
    return [] if differ and is_known(gold) and is_known(answer) else [(1, 1)]


def for_parser(text: str) -> str:
    """An expression in the LaTeX that math-verify's parser knows."""
    text = re.sub(r"\\text\s*\{([^{}]*)\}", r" \1 ", text).replace(CURRENCY, "")
    text = _REPEATING.sub(_as_fraction, _FUNCTIONS.sub(r"\\\1", text))
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)
    return text.replace("°", "").replace("%", "/100").strip()


def _as_fraction(found: re.Match) -> str:
    r"""A repeating decimal as a fraction: 0.1\overline{6} is (16 - 1)/90."""
    whole, fixed, repeating = found[1] or "0", found[2], found[3]
    all_digits, first = int(whole + fixed + repeating), int(whole + fixed)
    return rf"\frac{{{all_digits - first}}}{{{'9' * len(repeating) + '0' * len(fixed)}}}"
