r"""GSM8K: the number of a response against the number after `####`.

    question  Janet's ducks lay 16 eggs per day. She eats three for breakfast every morning and bakes muffins for her friends
              every day with four. She sells the remainder at the farmers' market daily for $2 per fresh duck egg. How much
              in dollars does she make every day at the farmers' market?
    answer    Janet sells 16 - 3 - 4 = <<16-3-4=9>>9 duck eggs a day.
              She makes 9 * 2 = $<<9*2=18>>18 every day at the farmer's market.
              #### 18

Right: `<answer>\boxed{18}</answer>`, and under the default protocol `#### $18.00` and `She makes 18 dollars.`

default: of the text before the first end mark, in the last <answer> section where there is one: the last \boxed{}, else
what follows the last `####`, else the last number.
published: the last \boxed{} of the text, which must hold one plain number.

    python -m evaluation.metrics.gsm8k --res_path RUN [--protocol published]
"""

import re
from decimal import Decimal

from cd4lm.config import require
from cd4lm.data.rows import shown, text_of
from evaluation.metrics.answers import answer_section, before_end, decimal, last_boxed, last_number
from evaluation.metrics.verdict import DEFAULT, NO_ANSWER, RIGHT, WRONG, Scoring, Verdict

_PLAIN = re.compile(r"-?(\d[\d,]*(\.\d*)?|\.\d+)")


def gold(doc: dict) -> Decimal:
    """The number after `####` in doc["answer"]. Raises ValueError where the row has none."""
    if "####" not in doc["answer"]:
        raise ValueError(f"this row's answer has no ####: {doc['answer']!r}")
    return decimal(doc["answer"].rpartition("####")[2])


def extract(response: str) -> Decimal | None:
    """The answer of a response under the default protocol, or None."""
    text = before_end(response)
    section = answer_section(text)
    text = text if section is None else section
    boxed = last_boxed(text)
    if boxed is not None:
        return last_number(boxed)
    after = text.rpartition("####")
    return last_number(after[2].partition("\n")[0]) if after[1] else last_number(text)


def extract_published(response: str) -> Decimal | None:
    r"""The plain number in the last \boxed{}, without dollar signs and commas, or None."""
    boxed = last_boxed(before_end(response))
    text = (boxed or "").replace("\\$", "").replace("$", "").strip()
    return decimal(text.rstrip(".")) if _PLAIN.fullmatch(text) else None


def judge(doc: dict, response: str, scoring: Scoring = DEFAULT) -> Verdict:
    """Outcome of a response to a row of the data set (question, answer)."""
    value = extract(response) if scoring.protocol == "default" else extract_published(response)
    if value is None:
        return Verdict(NO_ANSWER, detail="no number found")
    right = value == gold(doc)
    return Verdict(RIGHT if right else WRONG, str(value), "" if right else f"the answer is {gold(doc)}")


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
