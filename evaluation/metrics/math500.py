"""MATH500."""

from evaluation.metrics.verdict import Verdict


def judge(doc: dict, response: str, *, protocol: str = "default") -> Verdict:
    """Outcome of a response to a row of the data set (problem, answer)."""
    raise NotImplementedError


def score(doc: dict, response: str, *, protocol: str = "default") -> bool:
    """Whether the response is right; one without an answer is wrong."""
    return judge(doc, response, protocol=protocol).right
