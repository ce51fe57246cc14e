r"""MATH500: the answer of a response against the row's `answer`.

    problem   Convert the point $(0,3)$ in rectangular coordinates to polar coordinates.  Enter your answer in the form
              $(r,\theta),$ where $r > 0$ and $0 \le \theta < 2 \pi.$
    answer    \left( 3, \frac{\pi}{2} \right)

Right: `<answer>\boxed{(3, \frac{\pi}{2})}</answer>`, and under the default protocol `\boxed{(3, \pi/2)}`.

default: the answer that evaluation/metrics/answers.py finds; right if it has the gold answer's structure
(evaluation/metrics/structures.py) and math-verify finds its expressions equal (evaluation/metrics/math_equality.py).
published: the last \boxed{}, equality of the normalised strings.

    python -m evaluation.metrics.math500 --res_path RUN [--protocol published]
"""

import re

from cd4lm.data.rows import text_of
from evaluation.metrics import answers
from evaluation.metrics.answers import before_end, last_boxed
from evaluation.metrics.equality import same
from evaluation.metrics.symbols import clean, is_prose
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


def normalise(answer: str) -> str:
    """An answer in one of its ways of writing: no spacing, units, degree or dollar signs; fractions and roots braced."""
    for pattern, replacement in _RULES:
        answer = pattern.sub(replacement, answer)
    return answer


def published_verdict(gold: str, response: str) -> Verdict:
    """Outcome under the published protocol."""
    boxed = last_boxed(before_end(response))
    if not boxed or not boxed.strip():
        return (
            Verdict(WRONG, boxed, f"the answer is {gold}") if boxed else Verdict(NO_ANSWER, detail="no \\boxed{} found")
        )
    right = normalise(boxed) == normalise(gold)
    return Verdict(RIGHT, boxed) if right else Verdict(WRONG, boxed, f"the answer is {gold}")


def judge(doc: dict, response: str, scoring: Scoring = DEFAULT) -> Verdict:
    """Outcome of a response to a row of the data set (problem, answer). Raises ValueError without math-verify."""
    if scoring.protocol == "published":
        return published_verdict(doc["answer"], response)
    found = answers.find(response)
    if found is None:
        return Verdict(NO_ANSWER, detail="no answer found")
    gold, percent = clean(doc["answer"]), about_percent(doc.get("problem", ""))
    outcome = same(gold, found.text, percent)
    if outcome == WRONG and found.place == answers.SENTENCE and is_prose(found.text):
        outcome = NO_ANSWER  # a sentence that is no answer is none, rather than a wrong one
    return Verdict(outcome, found.text, "" if outcome == RIGHT else f"the answer is {doc['answer']}")


def about_percent(problem: str) -> bool:
    """Whether a percent sign in the answer is its unit: unless the problem is known and does not speak of percents."""
    return bool(re.search(r"percent|%", problem)) or len(problem.split()) < 2


def score(doc: dict, response: str, *, protocol: str = "default") -> bool:
    """Whether the response is right; one without an answer is wrong."""
    return judge(doc, response, Scoring(protocol)).right


def check(doc: dict) -> None:
    """Raise ValueError for a row without an answer."""
    text_of(doc, "answer")


if __name__ == "__main__":
    from evaluation.metrics.rescore import command

    command("math500", __doc__)
