"""Intervals and paired tests for right/wrong results on the same problems."""

import math
from collections.abc import Sequence


def wilson(right: int, total: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval of a proportion, 95 % by default (Wilson 1927). total must be positive."""
    p, z2 = right / total, z * z
    centre = (p + z2 / (2 * total)) / (1 + z2 / total)
    half = z / (1 + z2 / total) * math.sqrt(p * (1 - p) / total + z2 / (4 * total * total))
    return max(0.0, centre - half), min(1.0, centre + half)


def mcnemar(a: Sequence[bool], b: Sequence[bool]) -> float:
    """Two-sided exact p-value that a and b, right/wrong on the same problems, are equally often right (McNemar 1947)."""
    only_a = sum(x and not y for x, y in zip(a, b, strict=True))
    only_b = sum(y and not x for x, y in zip(a, b, strict=True))
    n = only_a + only_b
    tail = sum(math.comb(n, k) for k in range(min(only_a, only_b) + 1)) / 2**n
    return min(1.0, 2 * tail)


def pass_at_k(n: int, right: int, k: int) -> float:
    """Unbiased probability that one of k of n samples is right, 1 - C(n - right, k) / C(n, k) (Chen et al. 2021)."""
    if not 0 <= right <= n or not 1 <= k <= n:
        raise ValueError(f"pass@k needs 0 <= right <= n and 1 <= k <= n, got n={n} right={right} k={k}")
    return 1.0 - math.comb(n - right, k) / math.comb(n, k)
