"""NFE at equal accuracy, and the report made from cells whose answer is known."""

import json
import math

import numpy as np
import pytest

from cd4lm.config import build
from cd4lm.settings import ExperimentConfig
from evaluation.analysis import analyse
from evaluation.frontier import accuracy_difference, estimate, family_nfe, nfe_at, resample_weights
from evaluation.measure import summarise
from evaluation.report import render
from evaluation.sentences import verdict


def cell(family: str, setting: float, accuracy: float, nfe: float, n: int = 200, seed: int = 0) -> dict:
    """Problems are right in a fixed order, so that cells are strongly paired."""
    order = np.random.default_rng(seed).permutation(n)
    right = (order < accuracy * n).astype(int).tolist()
    measured = {"problems": {"right": right, "nfe": [nfe] * n, "length": [20] * n}, "seconds": 1.0}
    measured |= {"family": family, "setting": setting, "cache": "none", "latency": [], "tokens": ""}
    return measured | summarise(measured)


def test_interpolation():
    accuracy, nfe = np.array([0.9, 0.5, 0.7]), np.array([12.0, 4.0, 8.0])
    assert nfe_at(accuracy, nfe, 0.8) == pytest.approx(10.0)
    assert nfe_at(accuracy, nfe, 0.5) == 4.0
    assert math.isnan(nfe_at(accuracy, nfe, 0.95))


def test_paired_difference_is_tighter_than_its_parts():
    weights = resample_weights(200, 500, seed=0)
    a, b = cell("CAD", 1, 0.80, 5), cell("CAD", 1, 0.78, 5)
    e = accuracy_difference(a, b, weights)
    assert e.value == pytest.approx(0.02) and 0 <= e.low < e.high < 0.05


def test_a_family_that_never_reaches_says_so():
    weights = resample_weights(200, 200, seed=0)
    e = estimate(family_nfe([cell("fixed", 1, 0.5, 4)], cell("fixed", 2, 0.9, 40), 0.01, weights))
    assert math.isnan(e.value) and e.reached == 0


def config() -> ExperimentConfig:
    evaluate = {
        "problems": 200,
        "gen_length": 40,
        "block_length": 20,
        "fixed_steps": [40, 10],
        "thresholds": [0.95, 0.8],
    }
    data = {"dataset": "tiny", "dir": "d"}
    return build(ExperimentConfig, {"teacher": "t", "output_dir": "o", "data": data, "evaluate": evaluate})


def grid(student_nfe: float, control_nfe: float) -> dict:
    def row(scale, accuracy):
        return {
            "fixed-40": cell("fixed", 40, accuracy, 30.0),
            "fixed-10": cell("fixed", 10, 0.5, 9.0),
            "CAD-0.95": cell("CAD", 0.95, accuracy, scale),
            "CAD-0.8": cell("CAD", 0.8, 0.7, scale * 0.8),
        }

    return {"teacher": row(12.0, 0.95), "student": row(student_nfe, 0.95), "control": row(control_nfe, 0.95)}


def test_report_claims_a_gain_only_where_there_is_one():
    better = analyse(config(), grid(8.0, 10.0))
    assert better["ratios"]["teacher + CAD / student + CAD"]["value"] == pytest.approx(1.5, rel=0.01)
    text = " ".join(verdict(better))
    assert "needs fewer forward passes than teacher + CAD" in text and "DSCD beats plain" in text
    worse = " ".join(verdict(analyse(config(), grid(14.0, 12.0))))
    assert "needs more forward passes than teacher + CAD" in worse and "DSCD loses to plain" in worse
    same = " ".join(verdict(analyse(config(), grid(12.0, 12.0))))
    assert "not measurably fewer" in same and "does not clearly beat" in same


def test_results_are_strict_json_and_the_report_has_every_cell():
    cells = grid(8.0, 10.0)
    for cell_ in cells["student"].values():
        cell_["problems"]["right"] = [0] * 200  # never reaches: nulls, not NaN
    analysis = analyse(config(), cells)
    json.dumps(analysis, allow_nan=False)
    report = render(config(), cells, analysis)
    assert report.count("\n| DSCD student |") == 4 and "not reached" in report
