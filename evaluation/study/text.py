"""Numbers as words: values with their intervals and units, and p-values."""

from evaluation.study.settings import StudyConfig

NOTHING = "not reached"


def span(e: dict, digits: int = 1, scale: float = 1.0, sign: str = "") -> str:
    """A value with its 95 % interval; ends that do not exist are open."""
    if e["value"] is None and e["low"] is None and e["high"] is None:
        return NOTHING
    value, low, high = (None if e[k] is None else f"{scale * e[k]:{sign}.{digits}f}" for k in ("value", "low", "high"))
    return f"{value or NOTHING} [{low or '–∞'}, {high or '∞'}]"


def percent(e: dict, digits: int = 1) -> str:
    return span(e, digits, 100)


def with_unit(text: str, unit: str) -> str:
    return text if text == NOTHING else f"{text} {unit}"


def points(e: dict) -> str:
    return with_unit(span(e, 1, 100, "+"), "points")


def p_text(p: float) -> str:
    return f"{p:.2g}" if p >= 0.001 else "< 0.001"


# How a measure and a difference of it are told.
TOLD = {
    "nfe": (span, lambda e: with_unit(span(e, 1, 1, "+"), "forward passes")),
    "accuracy_at_nfe": (percent, points),
    "accuracy": (percent, points),
    "error_at_threshold": (percent, points),
    "nll": (lambda e: span(e, 2), lambda e: with_unit(span(e, 2, 1, "+"), "nats")),
    "wordings": (lambda e: span(e, 2), lambda e: with_unit(span(e, 2, 1, "+"), "bits")),
}


def measure_name(study: StudyConfig, measure: str) -> str:
    """What is measured, in a few words with its unit."""
    return {
        "nfe": "NFE of CAD at equal accuracy",
        "accuracy_at_nfe": f"accuracy of CAD at {study.budget:g} NFE, %",
        "accuracy": f"accuracy with CAD {study.headline:g}, %",
        "error_at_threshold": f"wrong among tokens of confidence ≥ {study.headline:g}, %",
        "nll": "NLL of the data's answers, nats per token",
        "wordings": "entropy of sampled wordings, bits of 3",
    }[measure]
