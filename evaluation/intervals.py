"""Intervals and tests for results on the same documents, by scipy; AUP, which no library has.

Letters: N documents, R resamples, S seeds.
"""

import itertools
import math
import warnings
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


def resample(statistic: Callable[..., np.ndarray], *columns: np.ndarray) -> np.ndarray:
    """A statistic of paired columns (N,) on all documents, then on R resamples of them: (1 + R,).

    statistic: called with columns (R, N) each, returns (R,); NaN where it does not exist. The resamples of equally many
    documents are always the same, so that two statistics can be subtracted or divided.
    """
    point = statistic(*(column[None] for column in columns))
    if len(columns[0]) == 1:  # nothing to resample
        return np.concatenate((point, point))
    with warnings.catch_warnings():
        # Where every resample gives the same value there is nothing wrong with the interval of width 0.
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        found = stats.bootstrap(
            (np.arange(len(columns[0])),),  # one index for all columns keeps them paired
            lambda index, axis: statistic(*(column[np.atleast_2d(index)] for column in columns)).squeeze(),
            n_resamples=RESAMPLES,
            batch=BATCH,
            vectorized=True,
            method="percentile",
            rng=SEED,
        )
    return np.concatenate((point, found.bootstrap_distribution))


def estimate(samples: np.ndarray) -> Estimate:
    """The value on all documents and the percentile interval of the resamples in which it exists, from (1 + R,)."""
    point, drawn = float(samples[0]), samples[1:]
    exists = drawn[~np.isnan(drawn)]
    low, high = np.percentile(exists, (2.5, 97.5)).tolist() if len(exists) else (None, None)
    return Estimate(None if math.isnan(point) else point, low, high, len(exists) / len(drawn))


def mean_difference(a: np.ndarray, b: np.ndarray) -> Estimate:
    """Mean of a less that of b, paired (N,)."""
    return estimate(resample(lambda x, y: (x - y).mean(axis=-1), a, b))


def mean_ratio(a: np.ndarray, b: np.ndarray) -> Estimate:
    """Mean of a over that of b, paired (N,)."""
    return estimate(resample(lambda x, y: x.mean(axis=-1) / y.mean(axis=-1), a, b))


def holm(p_values: Sequence[float], planned: int = 0) -> list[float]:
    """p-values corrected for their number, in their order (Holm 1979).

    planned: tests of the family, where some are still to come. They count as p = 1, so no corrected value can grow by them.
    """
    from statsmodels.stats.multitest import multipletests  # seconds to import, and only studies have families of tests

    family = [*p_values, *[1.0] * (planned - len(p_values))]
    return multipletests(family, method="holm")[1][: len(p_values)].tolist() if len(p_values) else []


def pass_at_k(n: int, right: int, k: int) -> float:
    """Unbiased probability that one of k of n samples is right, 1 - C(n - right, k) / C(n, k) (Chen et al. 2021)."""
    if not 0 <= right <= n or not 1 <= k <= n:
        raise ValueError(f"pass@k needs 0 <= right <= n and 1 <= k <= n, got n={n} right={right} k={k}")
    return 1.0 - math.comb(n - right, k) / math.comb(n, k)


def nfe_at(accuracy: np.ndarray, nfe: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Least NFE at which interpolation between a family's decoders reaches the target accuracy; NaN if none does.

    accuracy, nfe: (R, C), one column per decoder; target: (R,). Returns (R,).
    """
    order = np.argsort(nfe, axis=1)
    accuracy, nfe = np.take_along_axis(accuracy, order, 1), np.take_along_axis(nfe, order, 1)
    reached = accuracy >= target[:, None]
    first = reached.argmax(axis=1)  # (R,)
    rows, before = np.arange(len(first)), np.maximum(first - 1, 0)
    rise = accuracy[rows, first] - accuracy[rows, before]
    share = np.divide(target - accuracy[rows, before], rise, out=np.zeros_like(rise), where=rise > 0)
    found = nfe[rows, before] + share * (nfe[rows, first] - nfe[rows, before])
    return np.where(reached.any(axis=1), np.where(first == 0, nfe[:, 0], found), np.nan)


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


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval, the two-sided p that it is 0, and the degrees of freedom; alone, without seeds."""

    value: float
    low: float | None = None
    high: float | None = None
    p: float | None = None
    freedom: float | None = None


def clustered_variance(values: np.ndarray, clusters: np.ndarray) -> tuple[float, int]:
    """Variance of the mean of values (N,), where those of one cluster are not independent, and the number of clusters.

    The sandwich estimator with the factor K / (K - 1) (Liang & Zeger 1986).
    """
    _, place = np.unique(clusters, return_inverse=True)
    sums = np.bincount(place, weights=values - values.mean())
    K = len(sums)
    return (float((sums**2).sum() / len(values) ** 2 * K / (K - 1)) if K > 1 else 0.0), K


def wilson_of_clusters(right: np.ndarray, clusters: Sequence) -> tuple[float, float]:
    """Wilson's 95 % interval of the mean of right (N,), 0 or 1, where problems of one cluster are not independent.

    It is taken at the number of independent problems whose mean would vary as much (Kish 1965), at most N; where none
    varies, at the number of clusters.
    """
    share = float(right.mean())
    variance, K = clustered_variance(right, np.asarray(clusters))
    number = min(share * (1 - share) / variance, len(right)) if variance > 0 else K
    return wilson(round(share * number), max(1, round(number)))


def over_seeds(a: np.ndarray, b: np.ndarray | None, clusters: np.ndarray, paired: bool) -> Interval:
    """Mean of a (S, N) less that of b (S', N), in which seeds and problems both vary.

    The variance is that of the means over seeds, of the differences of equal seeds if `paired`, plus that over clusters
    of problems of the mean over seeds, which all seeds share; the degrees of freedom are Welch and Satterthwaite's.
    b: one row for a teacher, which has no seeds; None for the mean of a alone.
    """
    means = [a.mean(axis=1)] if b is None else [a.mean(axis=1), b.mean(axis=1)]
    value = float(means[0].mean() - (means[1].mean() if b is not None else 0.0))
    per_problem = a.mean(axis=0) - (0.0 if b is None else b.mean(axis=0))
    if len(a) == 1:
        return Interval(value)
    varied = [means[0] - means[1]] if paired else [m for m in means if len(m) > 1]
    parts = [(float(m.var(ddof=1)) / len(m), len(m) - 1) for m in varied]
    variance, K = clustered_variance(per_problem, clusters)
    parts.append((variance, K - 1))
    total = sum(v for v, _ in parts)
    if total == 0:
        return Interval(value, value, value, 1.0 if value == 0 else 0.0)
    freedom = total**2 / sum(v**2 / f for v, f in parts if f > 0 and v > 0)
    half = float(stats.t.ppf(0.975, freedom)) * math.sqrt(total)
    p = float(2 * stats.t.sf(abs(value) / math.sqrt(total), freedom))
    return Interval(value, value - half, value + half, p, freedom)


def area_under_roc(least_confidence: list[float], right: list[int]) -> float | None:
    """Probability that a right answer has the higher confidence of a right and a wrong one; None without both."""
    yes = [c for c, r in zip(least_confidence, right, strict=True) if r]
    no = [c for c, r in zip(least_confidence, right, strict=True) if not r]
    if not yes or not no:
        return None
    return float(stats.mannwhitneyu(yes, no).statistic / (len(yes) * len(no)))
