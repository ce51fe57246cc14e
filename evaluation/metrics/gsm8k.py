r"""GSM8K: the number of a response against the number after `####`.

    question  Janet's ducks lay 16 eggs per day. She eats three for breakfast every morning and bakes muffins for her friends
              every day with four. She sells the remainder at the farmers' market daily for $2 per fresh duck egg. How much
              in dollars does she make every day at the farmers' market?
    answer    Janet sells 16 - 3 - 4 = <<16-3-4=9>>9 duck eggs a day.
              She makes 9 * 2 = $<<9*2=18>>18 every day at the farmer's market.
              #### 18

Right: `<answer>\boxed{18}</answer>`, and under the default protocol `#### $18.00` and `She makes 18 dollars.`

default: the exact value of the answer that evaluation/metrics/answers.py finds; of sentences that hold no answer by
themselves, the last number, or the arithmetic that it ends.
published: the last \boxed{} of the text, which must hold one plain number.

    python -m evaluation.metrics.gsm8k --res_path RUN [--protocol published]
"""

import re
from decimal import Decimal, InvalidOperation
from fractions import Fraction

from cd4lm.config import require
from cd4lm.data.rows import shown, text_of
from evaluation.metrics import answers
from evaluation.metrics.answers import before_end, last_boxed
from evaluation.metrics.quantities import NUMBER, as_text, value
from evaluation.metrics.symbols import CURRENCY
from evaluation.metrics.units import scaled, split_unit
from evaluation.metrics.verdict import DEFAULT, NO_ANSWER, RIGHT, WRONG, Scoring, Verdict
from evaluation.metrics.wrappers import is_negated, peel, without_marks

_PLAIN = re.compile(r"-?(\d[\d,]*(\.\d*)?|\.\d+)")
_MONEY = rf"(?:[{CURRENCY}€£]\s*)?"
_ATOM = rf"{_MONEY}(?:\\frac\s*\{{\s*-?{NUMBER}\s*\}}\s*\{{\s*{NUMBER}\s*\}}|{NUMBER}(?:\s*\\frac\s*\{{\d+\}}\s*\{{\d+\}}|\s+\d+/\d+)?)%?"
_OPERATION = r"\s*(?:\\times|\\cdot|\\div|[-+*/^]|x(?=\s*\d))\s*"
# A number in a sentence with the arithmetic it is part of; not one inside a name, an exponent, an index or a time of day.
_ARITHMETIC = re.compile(
    rf"(?:(?<![\w)}}\]^_{{])-\s?(?=\S)|(?<![\w.^_{{\\]))(?<!\d[,:]){_ATOM}(?:{_OPERATION}(?:\{{-?{NUMBER}\}}|-?{_ATOM}))*(?!\w|[.,:]\d)"
)
# A word ends where its letters do: were it free to end before, a run of n letters would be 2^n sequences of words.
_WORDS = re.compile(rf"(?:[A-Za-z]{{2}}[\w'’-]*(?![\w'’-])|[\s,.:;()°%{CURRENCY}-])*")
# The number of a list's item or heading.
_ITEM = re.compile(r"^[ \t]*(?:#+[ \t]*)?\d{1,2}[.)][ \t]+(?=\S)", re.MULTILINE)
_OR = re.compile(r"[\s$]*\bor\b[\s$]*")
_DENIED = re.compile(r"\bnot[\s$]*$")


def decimal(text: str) -> Decimal:
    """A number as written, without thousands separators."""
    try:
        return Decimal(text.replace(",", "").strip())
    except InvalidOperation:
        raise ValueError(f"{text!r} is not a number") from None


def gold(doc: dict) -> Decimal:
    """The number after `####` in doc["answer"]. Raises ValueError where the row has none."""
    if "####" not in doc["answer"]:
        raise ValueError(f"this row's answer has no ####: {doc['answer']!r}")
    return decimal(doc["answer"].rpartition("####")[2])


def extract(response: str) -> Fraction | None:
    """The answer of a response under the default protocol, or None."""
    found = answers.find(response)
    if found is None:
        return None
    numbers = {read(piece, in_list=found.place != answers.BOXED) for piece in found.pieces}
    number = numbers.pop() if len(numbers) == 1 else None  # several boxes are one answer only if they say the same
    if number is not None or found.place == answers.BOXED:
        return number
    if found.place in (answers.HEADING, answers.STATEMENT):
        return in_sentence(found.text, first=True)
    return in_sentences(answers.searched(response))


def read(piece: str, in_list: bool = False) -> Fraction | None:
    """The value of a text that is one quantity: a number or arithmetic, with unit, name or words around it; or None."""
    text = without_marks(peel(piece, in_list))
    text = re.split(r"=|\\approx|\\equiv", text)[-1] if "=" in text else re.split(r"\\approx", text)[0]
    for candidate in (text, scaled(text)):
        number = value(split_unit(peel(candidate), letters=True)[0])
        if number is not None:
            return number
    text = re.sub(r"\\text\s*\{([^{}]*)\}", r" \1 ", text)
    found = list(_ARITHMETIC.finditer(text))
    if len(found) != 1 or is_negated(text):
        return None
    around = text[: found[0].start()] + text[found[0].end() :]
    return _value(found[0][0]) if _WORDS.fullmatch(around) else None


def in_sentences(text: str) -> Fraction | None:
    """The value of the last number of the last sentence that has one, with its arithmetic, or None."""
    text = _ITEM.sub("", text)
    values = (in_sentence(sentence, first=False) for sentence in reversed(answers.sentences(text)))
    return next((number for number in values if number is not None), None)


def in_sentence(text: str, first: bool) -> Fraction | None:
    """The value of the first or last number that a sentence does not deny; those in parentheses come last."""
    text = without_marks(text).replace("\\text", " ")
    for part in (re.sub(r"\([^()]*\)", " ", text), text):
        found = [number for number in _ARITHMETIC.finditer(part) if not _DENIED.search(part[: number.start()])]
        if found:
            one, other = (
                (found[0], found[min(1, len(found) - 1)]) if first else (found[-1], found[max(0, len(found) - 2)])
            )
            between = part[min(one.end(), other.end()) : max(one.start(), other.start())]
            return None if _OR.fullmatch(between) else _value(one[0])
    return None


def _value(arithmetic: str) -> Fraction | None:
    return value(re.sub(rf"[{CURRENCY}€£%]\s*", "", arithmetic).strip().removesuffix("."))


def extract_published(response: str) -> Decimal | None:
    r"""The plain number in the last \boxed{}, without dollar signs and commas, or None."""
    boxed = last_boxed(before_end(response))
    text = (boxed or "").replace("\\$", "").replace("$", "").strip()
    return decimal(text.rstrip(".")) if _PLAIN.fullmatch(text) else None


def judge(doc: dict, response: str, scoring: Scoring = DEFAULT) -> Verdict:
    """Outcome of a response to a row of the data set (question, answer)."""
    published = scoring.protocol == "published"
    number = extract_published(response) if published else extract(response)
    if number is None:
        return Verdict(NO_ANSWER, detail="no number found")
    right = number == (gold(doc) if published else Fraction(gold(doc)))
    text = str(number) if published else as_text(number)
    return Verdict(RIGHT if right else WRONG, text, "" if right else f"the answer is {gold(doc)}")


def score(doc: dict, response: str, *, protocol: str = "default") -> bool:
    """Whether the response is right; one without an answer is wrong."""
    return judge(doc, response, Scoring(protocol)).right


def check(doc: dict) -> None:
    """Raise ValueError for a row whose answer holds no number after `####`."""
    text_of(doc, "answer")
    try:
        readable = gold(doc).is_finite()
    except ValueError:
        readable = False
    end = doc["answer"].rpartition("####")[2].strip()
    require(readable, f"has no plain number after #### in column 'answer' but {shown(end)}")


if __name__ == "__main__":
    from evaluation.metrics.rescore import command

    command("gsm8k", __doc__)
