"""What a metric says about one response."""

from dataclasses import dataclass

RIGHT, WRONG, NO_ANSWER, TIMEOUT, ERROR = "right", "wrong", "no_answer", "timeout", "error"
OUTCOMES = (RIGHT, WRONG, NO_ANSWER, TIMEOUT, ERROR)

PROTOCOLS = ("default", "published")


@dataclass(frozen=True)
class Verdict:
    """One of OUTCOMES, the answer that was extracted (None where none was), and why it is not right.

    no_answer: nothing could be extracted; timeout and error: the answer was there but could not be checked to the end.
    All but `right` count as wrong.
    """

    outcome: str
    answer: str | None = None
    detail: str = ""

    @property
    def right(self) -> bool:
        return self.outcome == RIGHT


def check_protocol(protocol: str) -> None:
    """Raise ValueError for a protocol that does not exist."""
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol={protocol!r} is not one of {', '.join(PROTOCOLS)}")
