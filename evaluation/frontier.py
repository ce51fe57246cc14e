"""How many forward passes a decoder needs for a wanted accuracy, with paired bootstrap intervals.

A family is the cells of one model and one kind of decoder over its settings. All cells share their problems, so one
resampling of the problems serves every cell, and differences between families are paired.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Estimate:
    """A value, its 95 % interval, and the share of resamples in which it exists; NaN where it does not."""

    value: float
    low: float
    high: float
    reached: float


def nfe_at(accuracy: np.ndarray, nfe: np.ndarray, target: float) -> float:
    """Least NFE at which linear interpolation between a family's cells (C,) reaches the target; NaN if none does."""
    order = np.argsort(nfe)
    accuracy, nfe = accuracy[order], nfe[order]
    reached = np.flatnonzero(accuracy >= target)
    if not len(reached):
        return float("nan")
    i = reached[0]
    if i == 0:
        return float(nfe[0])
    share = (target - accuracy[i - 1]) / (accuracy[i] - accuracy[i - 1])
    return float(nfe[i - 1] + share * (nfe[i] - nfe[i - 1]))


def column(cell: dict, name: str) -> np.ndarray:
    """One measure of a cell for every problem, (problems,) float64."""
    return np.array(cell["problems"][name], dtype=float)


def resample_weights(problems: int, resamples: int, seed: int) -> np.ndarray:
    """Bootstrap weights (resamples, problems) summing to 1 in each row; the first row weighs all problems alike."""
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(problems, np.full(problems, 1 / problems), size=resamples) / problems
    return np.vstack((np.full(problems, 1 / problems), drawn))


def family_nfe(cells: list[dict], reference: dict, margin: float, weights: np.ndarray) -> np.ndarray:
    """NFE of a family at the reference cell's accuracy less margin, once per row of weights (R,)."""
    accuracy = weights @ np.stack([column(cell, "right") for cell in cells], axis=1)  # (R, C)
    nfe = weights @ np.stack([column(cell, "nfe") for cell in cells], axis=1)  # (R, C)
    targets = weights @ column(reference, "right") - margin  # (R,)
    return np.array([nfe_at(a, f, t) for a, f, t in zip(accuracy, nfe, targets, strict=True)])


def estimate(samples: np.ndarray) -> Estimate:
    """Point value (row 0, all problems) and percentile interval of the resamples in which the value exists."""
    drawn = samples[1:]
    exists = drawn[~np.isnan(drawn)]
    low, high = np.percentile(exists, (2.5, 97.5)) if len(exists) else (float("nan"), float("nan"))
    return Estimate(float(samples[0]), float(low), float(high), len(exists) / len(drawn))


def accuracy_difference(a: dict, b: dict, weights: np.ndarray) -> Estimate:
    """Accuracy of cell a less that of cell b on the same problems, with its paired bootstrap interval."""
    return estimate(weights @ (column(a, "right") - column(b, "right")))
