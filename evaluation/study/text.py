"""Numbers as words: intervals, p-values, and what a contrast says, whichever way it falls."""

from evaluation.study.settings import TEACHER, StudyConfig

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


def p_phrase(p: float) -> str:
    return f"p = {p_text(p)}" if p >= 0.001 else f"p {p_text(p)}"


# How a measure is told: its value, its difference, and a does better or worse than b.
TOLD = {
    "nfe": (
        span,
        lambda e: with_unit(span(e, 1, 1, "+"), "forward passes"),
        "needs fewer forward passes than",
        "needs more forward passes than",
    ),
    "accuracy_at_nfe": (percent, points, "does better than", "does worse than"),
    "accuracy": (percent, points, "does better than", "does worse than"),
    "error_at_threshold": (
        percent,
        points,
        "is more often right where it is confident than",
        "is more often wrong where it is confident than",
    ),
    "nll": (
        lambda e: span(e, 2),
        lambda e: with_unit(span(e, 2, 1, "+"), "nats"),
        "fits the data's answers better than",
        "fits the data's answers worse than",
    ),
    "wordings": (
        lambda e: span(e, 2),
        lambda e: with_unit(span(e, 2, 1, "+"), "bits"),
        "words its samples more variously than",
        "words its samples less variously than",
    ),
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


def relation(row: dict) -> str:
    """Whether a does better than b, worse, or neither can be said."""
    _, _, better, worse = TOLD[row["measure"]]
    unsure = "is not measurably different from" if row["sign"] == 0 else "differs only before correction from"
    return {"a": better, "b": worse, "neither": unsure}[row["verdict"]]


def test_text(row: dict) -> str:
    """The test of a contrast in a few words."""
    seeds = f"{len(row['seeds'])} seeds" if len(row["seeds"]) > 1 else "1 seed"
    if row["p_holm"] is None:
        return f"exploratory, {p_phrase(row['p'])} uncorrected, {seeds}"
    return f"{p_phrase(row['p_holm'])} after Holm, {seeds}"


def contrast_sentence(study: StudyConfig, row: dict) -> str:
    """One contrast with its interval, its test and its row."""
    value, difference, _, _ = TOLD[row["measure"]]
    a, b = study.label(row["a"]), study.label(row["b"])
    return (
        f"{a} *{relation(row)}* {b} ({measure_name(study, row['measure'])}: {value(row['value_a'])} against "
        f"{value(row['value_b'])}; difference {difference(row['difference'])}, {test_text(row)}; row {row['id']})"
    )


def cell_command(config: str, study: StudyConfig, variant: str) -> str:
    name = TEACHER if variant == TEACHER else f"{variant}/seed-{study.seeds[0]}"
    return f"python scripts/study.py {config} --cell {name}"
