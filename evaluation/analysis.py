"""What a grid of cells says: forward passes at equal accuracy, paired tests, and whether caches changed a token."""

import math

import numpy as np

from cd4lm.settings import ExperimentConfig
from evaluation.frontier import Estimate, accuracy_difference, column, estimate, family_nfe, resample_weights
from evaluation.statistics import mcnemar

RESAMPLES = 2000


def family(cells: dict, model: str, kind: str) -> list[dict]:
    """The cells of one model and one kind of decoder that recompute everything; a cache changes no accuracy or NFE."""
    return [cell for cell in cells[model].values() if cell["family"] == kind and cell["cache"] == "none"]


def display_names(config: ExperimentConfig, models) -> dict[str, str]:
    """What the report calls each model."""
    known = {"teacher": "teacher", "control": "control (lambda = 0)", "dscd": "DSCD student"}
    known["student"] = "DSCD student" if config.cdlm is None else "CDLM student"
    return {model: known.get(model, model.replace("_", " ")) for model in models}


def reference_cell(config: ExperimentConfig, cells: dict) -> dict:
    """The teacher at one token per step, which every comparison refers to."""
    return cells["teacher"][f"fixed-{config.evaluate.gen_length}"]


def plain(e: Estimate) -> dict:
    """An estimate as JSON, which has no NaN: null where the value does not exist."""
    return {name: None if math.isnan(value) else value for name, value in vars(e).items()}


def analyse(config: ExperimentConfig, cells: dict) -> dict:
    """NFE at equal accuracy of every family, its ratios, and paired tests of the headline cells."""
    reference, margin = reference_cell(config, cells), config.evaluate.margin
    weights = resample_weights(len(reference["problems"]["right"]), RESAMPLES, config.evaluate.seed)
    needed = {
        f"{model} + {kind}": family_nfe(family(cells, model, kind), reference, margin, weights)
        for model in cells
        for kind in ("fixed", "CAD")
        if family(cells, model, kind)
    }
    one_token = weights @ column(reference, "nfe")
    tests = {}
    headline = f"CAD-{config.evaluate.headline:g}"
    for model in cells:
        cell = cells[model][headline]
        tests[model] = {
            "difference": plain(accuracy_difference(cell, reference, weights)),
            "mcnemar_p": mcnemar(cell["problems"]["right"], reference["problems"]["right"]),
            "fewer_nfe": plain(estimate(one_token / (weights @ column(cell, "nfe")))),
        }
    students = [model for model in cells if model != "teacher"]
    pairs = [("teacher + CAD", f"{model} + CAD") for model in students]
    pairs += [("teacher + fixed", "student + CAD"), ("student + fixed", "student + CAD")]
    pairs += [(f"{model} + CAD", "student + CAD") for model in students if model != "student"]
    return {
        "names": display_names(config, cells),
        "problems": len(reference["problems"]["right"]),
        "reference_accuracy": reference["accuracy"],
        "reference_nfe": reference["nfe"],
        "margin": margin,
        "nfe_at_equal_accuracy": {name: plain(estimate(samples)) for name, samples in needed.items()},
        "ratios": {f"{a} / {b}": plain(estimate(needed[a] / needed[b])) for a, b in pairs},
        "tests": tests,
        "headline": config.evaluate.headline,
        "caches": cache_tests(cells),
        "fastest": fastest(cells, reference, margin),
        "student_vs_control": control_test(cells, headline, weights) if "control" in cells else None,
    }


def control_test(cells: dict, headline: str, weights: np.ndarray) -> dict:
    """The student against the lambda = 0 control, both with the headline decoder."""
    student, control = cells["student"][headline], cells["control"][headline]
    forwards = [weights @ column(cell, "nfe") for cell in (control, student)]
    return {
        "accuracy_difference": plain(accuracy_difference(student, control, weights)),
        "mcnemar_p": mcnemar(student["problems"]["right"], control["problems"]["right"]),
        "fewer_nfe": plain(estimate(forwards[0] / forwards[1])),
    }


def cache_tests(cells: dict) -> list[dict]:
    """For every cell with an exact cache: whether its tokens are those without, and how much lower its latency is."""
    tests = []
    for model, row in cells.items():
        for name, cell in row.items():
            if cell["cache"] == "none":
                continue
            plain_cell = row[name.removesuffix(f"-{cell['cache']}")]
            tests.append(
                {"model": model, "decoder": name, "same_tokens": cell["tokens"] == plain_cell["tokens"]}
                | {"faster": plain(latency_ratio(plain_cell, cell))}
            )
    return tests


def latency_ratio(slow: dict, fast: dict) -> Estimate:
    """Mean seconds per answer at batch 1 of one cell over another's, on the same problems; NaN where not measured."""
    a, b = np.array(slow["latency"], dtype=float), np.array(fast["latency"], dtype=float)
    if not len(a):
        return Estimate(float("nan"), float("nan"), float("nan"), 0.0)
    weights = resample_weights(len(a), RESAMPLES, 0)
    return estimate((weights @ a) / (weights @ b))


def fastest(cells: dict, reference: dict, margin: float) -> dict | None:
    """Of the cells within the margin of the reference's accuracy the one with the least latency; None without latencies."""
    kept = [
        (float(np.mean(cell["latency"])), model, name)
        for model, row in cells.items()
        for name, cell in row.items()
        if cell["latency"] and cell["accuracy"] >= reference["accuracy"] - margin
    ]
    if not kept:
        return None
    _, model, name = min(kept)
    ratio = plain(latency_ratio(reference, cells[model][name]))
    return {"model": model, "decoder": name, "faster_than_reference": ratio}
