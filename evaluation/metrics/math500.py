r"""MATH500: the answer of a response against the row's `answer`.

    problem   Convert the point $(0,3)$ in rectangular coordinates to polar coordinates.  Enter your answer in the form
              $(r,\theta),$ where $r > 0$ and $0 \le \theta < 2 \pi.$
    answer    \left( 3, \frac{\pi}{2} \right)

Right: `<answer>\boxed{(3, \frac{\pi}{2})}</answer>`, and under the default protocol `\boxed{(3, \pi/2)}`.

default: of the text before the first end mark, the last \boxed{} of the last <answer> section (of the text where there is
no section), else the whole section; right if the normalised strings are equal or math-verify finds them equal. Without
either, math-verify looks for a formula or number in the text.
published: the last \boxed{}, equality of the normalised strings.

    python -m evaluation.metrics.math500 --res_path RUN [--protocol published]
"""

import re

from cd4lm.data.rows import text_of
from evaluation.metrics.answers import answer_section, before_end, last_boxed
from evaluation.metrics.math_equality import equal
from evaluation.metrics.verdict import DEFAULT, NO_ANSWER, RIGHT, WRONG, Scoring, Verdict

# In this order; each removes or unifies one way of writing the same answer.
_RULES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\(left|right|displaystyle|,|;|:|!|quad)(?![A-Za-z])", ""),
        (r"\\ |~", " "),
        (r"\\[dt]frac(?![A-Za-z])", r"\\frac"),
        (
            r"\\(text|mbox|mathrm|textbf)\s*\{\s*(degrees?|cents?|inch(es)?|feet|units?|cm|m)\s*\}(\s*\^\s*\{?\d\}?)?$",
            "",
        ),
        (r"\\(text|mbox|mathrm|textbf|mathbf)\s*\{([^{}]*)\}", r"\2"),
        (r"\^\s*(\\circ|\{\s*\\circ\s*\})", ""),
        (r"\\?[%$]", ""),
        (r"(?<=\d),(?=\d{3}(?!\d))", ""),
        (r"^\s*[A-Za-z]\s*=\s*", ""),
        (r"\\frac\s*(\d|\\[A-Za-z]+)(?=\s*[\d{\\])", r"\\frac{\1}"),
        (r"\\frac\s*(\{[^{}]*\})\s*(\d|\\[A-Za-z]+)", r"\\frac\1{\2}"),
        (r"\\sqrt\s*([A-Za-z0-9])", r"\\sqrt{\1}"),
        (r"\s+", ""),
        (r"(?<![\d.])\.(?=\d)", "0."),
        (r"^0\.5$", r"\\frac{1}{2}"),
        (r"^(-?)(\d+)/(\d+)$", r"\1\\frac{\2}{\3}"),
        (r"(?<=\d)\.0+$", ""),
        (r"\.$", ""),
    )
]
_BASE = re.compile(r"(?P<digits>-?[0-9A-Z.]+)_\{?(?P<base>\d+)\}?")


def normalise(answer: str) -> str:
    """An answer in one of its ways of writing: no spacing, units, degree or dollar signs; fractions and roots braced."""
    for pattern, replacement in _RULES:
        answer = pattern.sub(replacement, answer)
    return answer


def same_in_base(gold: str, answer: str) -> bool | None:
    """For a gold answer with a base such as 52_8: whether the digits and the base, if it is given, agree; else None."""
    written = _BASE.fullmatch(normalise(gold))
    if written is None:
        return None
    given = _BASE.fullmatch(normalise(answer))
    return normalise(answer) == written["digits"] if given is None else given.groups() == written.groups()


def judge(doc: dict, response: str, scoring: Scoring = DEFAULT) -> Verdict:
    """Outcome of a response to a row of the data set (problem, answer). Raises ValueError without math-verify."""
    text = before_end(response)
    section = answer_section(text) if scoring.protocol == "default" else None
    boxed = last_boxed(text if section is None else section)
    answer = section if boxed is None else boxed
    gold, detail = doc["answer"], f"the answer is {doc['answer']}"
    if answer is not None and answer.strip() and normalise(answer) == normalise(gold):
        return Verdict(RIGHT, answer)
    if scoring.protocol == "published":
        return Verdict(WRONG, answer, detail) if answer else Verdict(NO_ANSWER, detail="no \\boxed{} found")
    if not (text if answer is None else answer).strip():
        return Verdict(NO_ANSWER, detail="no answer found")
    in_base = None if answer is None else same_in_base(gold, answer)  # math-verify would drop the base
    if in_base is not None:
        return Verdict(RIGHT, answer) if in_base else Verdict(WRONG, answer, detail)
    outcome = equal(f"${gold}$", text if answer is None else f"${answer.strip().strip('$')}$")
    return Verdict(outcome, answer, "" if outcome == RIGHT else detail)


def score(doc: dict, response: str, *, protocol: str = "default") -> bool:
    """Whether the response is right; one without an answer is wrong."""
    return judge(doc, response, Scoring(protocol)).right


def check(doc: dict) -> None:
    """Raise ValueError for a row without an answer."""
    text_of(doc, "answer")


if __name__ == "__main__":
    from evaluation.metrics.rescore import command

    command("math500", __doc__)
