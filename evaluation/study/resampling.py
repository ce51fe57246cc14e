"""Bootstrap over seeds and problems, and what a family of decoders reaches at a budget of forward passes.

Letters: R resamples, the first of them the data as it is; S seeds, N problems, C decoders of one family.
"""

import itertools
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from evaluation.intervals import nfe_at


def resample_weights(problems: int, resamples: int, seed: int) -> np.ndarray:
    """Bootstrap weights (resamples, problems) summing to 1 in each row; the first row weighs all problems alike."""
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(problems, np.full(problems, 1 / problems), size=resamples) / problems
    return np.vstack((np.full(problems, 1 / problems), drawn))


@dataclass(frozen=True)
class Draws:
    """The weights of all resamples: seeds are drawn first, then problems, each with replacement.

    Every cell has the same problems, so one draw of problems serves all of them and differences are paired; seeds of two
    variants are drawn together as well, since a seed gives both the same order of rows and the same masks.
    """

    resamples: int
    seed: int

    def problems(self, count: int) -> np.ndarray:
        """(R, N), rows sum to 1."""
        if count not in self._made:
            self._made[count] = resample_weights(count, self.resamples, self.seed)
        return self._made[count]

    def seeds(self, count: int) -> np.ndarray:
        """(R, S), rows sum to 1; of one seed nothing can be drawn."""
        return resample_weights(count, self.resamples, self.seed + 1)

    @cached_property
    def _made(self) -> dict[int, np.ndarray]:
        return {}

    def mean(self, values: np.ndarray) -> np.ndarray:
        """Mean of values (S, N) over seeds and problems, in every resample: (R,)."""
        S, N = values.shape
        return ((self.problems(N) @ values.T) * self.seeds(S)).sum(axis=1)


def family_nfe_at(accuracy: np.ndarray, nfe: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """NFE of a family (R, C) at target accuracies (R,), interpolated; infinite where it is never reached."""
    found = nfe_at(accuracy, nfe, targets)
    return np.where(np.isnan(found), np.inf, found)


def accuracy_at(accuracy: np.ndarray, nfe: np.ndarray, budget: float | np.ndarray) -> np.ndarray:
    """Best accuracy that decoders (R, C), or a mix of two of them, reach with `budget` NFE on average: (R,).

    budget: one for all resamples or one each. NaN where every decoder needs more.
    """
    budget = np.broadcast_to(np.asarray(budget, dtype=float), accuracy.shape[:1])
    best = np.where(nfe <= budget[:, None], accuracy, -np.inf).max(axis=1)
    for i, j in itertools.permutations(range(nfe.shape[1]), 2):
        between = (nfe[:, i] <= budget) & (nfe[:, j] > budget)
        gap = np.where(between, nfe[:, j] - nfe[:, i], 1.0)
        share = np.where(between, (budget - nfe[:, i]) / gap, 0.0)
        mixed = accuracy[:, i] + share * (accuracy[:, j] - accuracy[:, i])
        best = np.where(between, np.maximum(best, mixed), best)
    return np.where(np.isinf(best), np.nan, best)


def interval(samples: np.ndarray) -> dict[str, float | None]:
    """Value (row 0) and 95 % percentile interval; infinite ends, and values that do not exist, are null."""
    drawn = samples[1:][~np.isnan(samples[1:])]
    # Never between a number and infinity, where there is no half way.
    low, high = np.quantile(drawn, (0.025, 0.975), method="inverted_cdf") if len(drawn) else (np.nan, np.nan)
    named = {"value": samples[0], "low": low, "high": high}
    return {name: float(value) if np.isfinite(value) else None for name, value in named.items()}


def p_value(samples: np.ndarray) -> float:
    """Two-sided p that a difference (R,) is 0, from its resamples; one that does not exist speaks for neither side."""
    drawn = samples[1:]
    unknown = np.isnan(drawn).sum()
    below, above = (drawn <= 0).sum() + unknown, (drawn >= 0).sum() + unknown
    return float(min(1.0, 2 * (1 + min(below, above)) / (len(drawn) + 1)))
