"""What a metric is asked, and what it says about one response."""

from dataclasses import dataclass

RIGHT, WRONG, NO_ANSWER, TIMEOUT, ERROR = "right", "wrong", "no_answer", "timeout", "error"
OUTCOMES = (RIGHT, WRONG, NO_ANSWER, TIMEOUT, ERROR)

PROTOCOLS = ("default", "published")
SANDBOXES = ("bubblewrap", "none")


@dataclass(frozen=True)
class Scoring:
    """How to score: protocol; for programs the user's consent, the isolation, and how many run at a time."""

    protocol: str = "default"
    confirm_run_unsafe_code: bool = False
    sandbox: str = "bubblewrap"
    workers: int = 2

    def __post_init__(self):
        for name, allowed in (("protocol", PROTOCOLS), ("sandbox", SANDBOXES)):
            value = getattr(self, name)
            if value not in allowed:
                raise ValueError(f"{name}={value!r} is not one of {', '.join(allowed)}")
        if self.workers < 1:
            raise ValueError(f"workers={self.workers} must be at least 1")


DEFAULT = Scoring()


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
