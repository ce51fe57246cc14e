"""Intervals and paired tests for right/wrong results on the same problems."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass


def wilson(right: int, total: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval of a proportion, 95 % by default (Wilson 1927). total must be positive."""
    p, z2 = right / total, z * z
    centre = (p + z2 / (2 * total)) / (1 + z2 / total)
    half = z / (1 + z2 / total) * math.sqrt(p * (1 - p) / total + z2 / (4 * total * total))
    return max(0.0, centre - half), min(1.0, centre + half)


def mcnemar(a: Sequence[bool], b: Sequence[bool]) -> float:
    """Two-sided exact p-value that a and b, right/wrong on the same problems, are equally often right (McNemar 1947)."""
    only_a = sum(bool(x) and not y for x, y in zip(a, b, strict=True))
    only_b = sum(bool(y) and not x for x, y in zip(a, b, strict=True))
    n = only_a + only_b
    tail = sum(math.comb(n, k) for k in range(min(only_a, only_b) + 1)) / 2**n
    return min(1.0, 2 * tail)


def pass_at_k(n: int, right: int, k: int) -> float:
    """Unbiased probability that one of k of n samples is right, 1 - C(n - right, k) / C(n, k) (Chen et al. 2021)."""
    if not 0 <= right <= n or not 1 <= k <= n:
        raise ValueError(f"pass@k needs 0 <= right <= n and 1 <= k <= n, got n={n} right={right} k={k}")
    return 1.0 - math.comb(n - right, k) / math.comb(n, k)


def mean_interval(values: Sequence[float], z: float = 1.959964) -> tuple[float, float]:
    """Normal interval of a mean, 95 % by default; of no width for a single value."""
    n = len(values)
    mean = sum(values) / n
    variance = sum((v - mean) ** 2 for v in values) / (n - 1) if n > 1 else 0.0
    half = z * math.sqrt(variance / n)
    return mean - half, mean + half


def newcombe(right_a: int, total_a: int, right_b: int, total_b: int, z: float = 1.959964) -> tuple[float, float]:
    """Interval of the difference a - b of two proportions on different problems (Newcombe 1998, hybrid score)."""
    a, b = right_a / total_a, right_b / total_b
    (low_a, high_a), (low_b, high_b) = wilson(right_a, total_a, z), wilson(right_b, total_b, z)
    return a - b - math.hypot(a - low_a, high_b - b), a - b + math.hypot(high_a - a, b - low_b)


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


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number, in their order: the k-th smallest of m times m - k + 1 (Holm 1979)."""
    m, largest = len(p_values), 0.0
    corrected = [0.0] * m
    for k, i in enumerate(sorted(range(m), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (m - k) * p_values[i]))
        corrected[i] = largest
    return corrected
