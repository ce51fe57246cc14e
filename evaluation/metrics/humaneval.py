"""humaneval."""

from evaluation.metrics.verdict import Verdict


def judge(doc: dict, response: str, *, protocol: str = "default", confirm_run_unsafe_code: bool = False) -> Verdict:
    """Outcome of a response to a row of the data set. Raises ValueError unless confirm_run_unsafe_code."""
    raise NotImplementedError


def score(doc: dict, response: str, *, protocol: str = "default", confirm_run_unsafe_code: bool = False) -> bool:
    """Whether the response passes all tests. Raises ValueError unless confirm_run_unsafe_code."""
    return judge(doc, response, protocol=protocol, confirm_run_unsafe_code=confirm_run_unsafe_code).right
