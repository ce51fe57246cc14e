"""Intervals and tests for results on the same documents, by scipy; AUP, which no library has.

Letters: N documents, R resamples.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

RESAMPLES, SEED = 2000, 0
BATCH = 500  # resamples held in memory at a time


@dataclass(frozen=True)
class Estimate:
    """A value, its 95 % interval, and the share of resamples in which it exists; None where it does not."""

    value: float | None
    low: float | None
    high: float | None
    reached: float = 1.0


def wilson(right: int, total: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of a proportion (Wilson 1927). total must be positive."""
    interval = stats.binomtest(right, total).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def mcnemar(a: Sequence[bool], b: Sequence[bool]) -> float:
    """Two-sided exact p-value that a and b, right/wrong on the same documents, are equally often right (McNemar 1947)."""
    a, b = np.asarray(a, dtype=bool), np.asarray(b, dtype=bool)
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    return float(stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def bootstrap(statistic: Callable[..., np.ndarray], *columns: np.ndarray) -> Estimate:
    """Percentile interval of a statistic of paired columns (N,), resampling documents.

    statistic: called with columns (R, N) or (1, N) each, returns (R,) or (1,); NaN where it does not exist.
    """
    point = float(statistic(*(column[None] for column in columns))[0])
    if len(columns[0]) == 1:  # nothing to resample
        drawn = np.array([point])
    else:
        # scipy stacks paired columns by resampling their common index.
        found = stats.bootstrap(
            (np.arange(len(columns[0])),),
            lambda index, axis: statistic(*(column[np.atleast_2d(index)] for column in columns)).squeeze(),
            n_resamples=RESAMPLES,
            batch=BATCH,
            vectorized=True,
            method="percentile",
            rng=SEED,
        )
        drawn = found.bootstrap_distribution
    exists = drawn[~np.isnan(drawn)]
    low, high = np.percentile(exists, (2.5, 97.5)).tolist() if len(exists) else (None, None)
    return Estimate(None if math.isnan(point) else point, low, high, len(exists) / len(drawn))


def mean_difference(a: np.ndarray, b: np.ndarray) -> Estimate:
    """Mean of a less that of b, paired (N,)."""
    return bootstrap(lambda x, y: (x - y).mean(axis=-1), a, b)


def mean_ratio(a: np.ndarray, b: np.ndarray) -> Estimate:
    """Mean of a over that of b, paired (N,)."""
    return bootstrap(lambda x, y: x.mean(axis=-1) / y.mean(axis=-1), a, b)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number, in their order (Holm 1979)."""
    from statsmodels.stats.multitest import multipletests  # seconds to import, and only studies have families of tests

    return multipletests(p_values, method="holm")[1].tolist() if len(p_values) else []


def pass_at_k(n: int, right: int, k: int) -> float:
    """Unbiased probability that one of k of n samples is right, 1 - C(n - right, k) / C(n, k) (Chen et al. 2021)."""
    if not 0 <= right <= n or not 1 <= k <= n:
        raise ValueError(f"pass@k needs 0 <= right <= n and 1 <= k <= n, got n={n} right={right} k={k}")
    return 1.0 - math.comb(n - right, k) / math.comb(n, k)


def nfe_at(accuracy: np.ndarray, nfe: np.ndarray, target: float) -> float:
    """Least NFE at which linear interpolation between a family's decoders (C,) reaches the target; NaN if none does."""
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


@dataclass(frozen=True)
class Aup:
    """Area under the accuracy/parallelism curve, the y_max it depends on, and how many points it was taken over."""

    value: float
    y_max: float
    points: int


def aup(points: Sequence[tuple[float, float]], y_max: float | None = None) -> Aup:
    """AUP of (tokens per forward, accuracy in percent) points; y_max defaults to their best accuracy (d3LLM).

    Points more than 5 below the first, in order of tokens per forward, are dropped. Figures with different y_max cannot
    be compared. Raises ValueError without points.
    """
    if not points:
        raise ValueError("AUP needs at least one point")
    ordered = sorted(points)
    top = max(y for _, y in ordered) if y_max is None else y_max
    if top <= 0:
        raise ValueError(f"y_max={top} must be positive")
    kept = [(rho, y) for rho, y in ordered if y >= ordered[0][1] - 5]
    weighted = [(rho, y * min(math.exp(-3 * (1 - y / top)), 1.0)) for rho, y in kept]
    area = kept[0][0] * kept[0][1]
    for (rho_before, before), (rho, after) in itertools.pairwise(weighted):
        area += (rho - rho_before) / 2 * (after + before)
    return Aup(area, top, len(kept))
