"""The best that a model's decoders reach at a cost: chosen on validation problems, judged on others.

Flipping a biased coin between two decoders is a decoder too, so what a set of decoders can reach is the upper concave hull
of their points (NFE, accuracy). A choice is {decoder: share}, the shares adding up to 1, of one or two decoders.
"""

import itertools

from cd4lm.config import require


def hull(points: dict[str, tuple[float, float]]) -> list[str]:
    """The decoders on the hull by ascending NFE, from the cheapest to the first of the most accurate."""
    ordered = sorted(points, key=lambda name: (points[name][0], -points[name][1], name))
    found: list[str] = []
    for name in ordered:
        x, y = points[name]
        if found and y <= points[found[-1]][1]:
            continue
        while len(found) > 1 and slope(points[found[-2]], points[found[-1]]) <= slope(points[found[-2]], (x, y)):
            found.pop()
        found.append(name)
    return found


def slope(a: tuple[float, float], b: tuple[float, float]) -> float:
    """Accuracy gained per forward pass from a to b; infinite where b costs no more."""
    return (b[1] - a[1]) / (b[0] - a[0]) if b[0] > a[0] else float("inf")


def mixed(a: str, b: str, share: float) -> dict[str, float]:
    """Decoder b with probability `share`, else a."""
    return {a: 1.0} if share <= 0 else {b: 1.0} if share >= 1 else {a: 1 - share, b: share}


def at_budget(points: dict[str, tuple[float, float]], budget: float) -> dict[str, float]:
    """The most accurate choice of at most `budget` forward passes in the mean; the cheapest where all need more."""
    require(bool(points), "an envelope needs at least one decoder")
    names = hull(points)
    for a, b in itertools.pairwise(names):
        if points[a][0] <= budget < points[b][0]:
            return mixed(a, b, (budget - points[a][0]) / (points[b][0] - points[a][0]))
    return {names[0] if budget < points[names[0]][0] else names[-1]: 1.0}


def at_accuracy(points: dict[str, tuple[float, float]], target: float) -> dict[str, float] | None:
    """The choice of fewest forward passes whose accuracy is at least `target`; None where none is."""
    names = hull(points)
    if points[names[0]][1] >= target:
        return {names[0]: 1.0}
    for a, b in itertools.pairwise(names):
        if points[b][1] >= target:
            return mixed(a, b, (target - points[a][1]) / (points[b][1] - points[a][1]))
    return None


def mean_of(points: dict[str, tuple[float, float]], choice: dict[str, float]) -> tuple[float, float]:
    """(NFE, accuracy) of a choice."""
    return tuple(sum(share * points[name][i] for name, share in choice.items()) for i in (0, 1))
