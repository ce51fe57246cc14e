"""Every quantity the study compares, once per resample, so that any two can be subtracted."""

from dataclasses import dataclass, field

import numpy as np

from evaluation.study.resampling import Draws, accuracy_at, family_nfe_at
from evaluation.study.results import Results
from evaluation.study.settings import TEACHER


def entropy_bits(counts: np.ndarray) -> np.ndarray:
    """Entropy in bits of counts (..., K); 0 where there are none."""
    total = counts.sum(axis=-1, keepdims=True)
    p = np.divide(counts, total, out=np.zeros_like(counts), where=total > 0)
    return -(p * np.log2(p, out=np.zeros_like(p), where=p > 0)).sum(axis=-1)


@dataclass(frozen=True)
class Estimates:
    """Samples (R,) of a variant's measures over given seeds and the first `count` problems; row 0 is the data as it is."""

    results: Results
    draws: Draws
    _curves: dict = field(default_factory=dict)

    def problems_of(self, *variants: str) -> int:
        return min(self.results.study.problems_of(variant) for variant in variants)

    def curves(self, variant: str, family: str | None, seeds: list[int], count: int) -> tuple[np.ndarray, np.ndarray]:
        """Accuracy and NFE of a family's decoders, mean over seeds: (R, C) twice."""
        key = (variant, family, tuple(seeds), count)
        if key not in self._curves:
            names = self.results.decoders(variant, family)
            columns = (
                [self.draws.mean(self.results.column(variant, name, what, seeds, count)) for name in names]
                for what in ("right", "nfe")
            )
            self._curves[key] = tuple(np.stack(column, axis=1) for column in columns)
        return self._curves[key]

    def target(self, count: int) -> np.ndarray:
        """The accuracy that counts as equal: the teacher's at one token per step less the margin, (R,)."""
        right = self.results.column(TEACHER, self.results.one_token, "right", [], count)
        return self.draws.mean(right) - self.results.study.margin

    def decoder_mean(self, variant: str, decoder: str, what: str, seeds: list[int], count: int) -> np.ndarray:
        return self.draws.mean(self.results.column(variant, decoder, what, seeds, count))

    def ratio(self, variant: str, path: tuple[str, ...], top: str, bottom: str, seeds: list[int], measure: str):
        """Sum of one count over sum of another, pooled over problems, mean over seeds: (R,)."""
        arrays = [self.results.counts(variant, measure, (*path, name), seeds) for name in (top, bottom)]
        above, below = (self.draws.problems(a.shape[1]) @ a.T for a in arrays)  # (R, S)
        share = np.divide(above, below, out=np.zeros_like(above), where=below > 0)
        return (share * self.draws.seeds(share.shape[1])).sum(axis=1)

    def wordings(self, variant: str, seeds: list[int]) -> np.ndarray:
        """Entropy in bits of the eight wordings in samples, what is none of them left out: (R,)."""
        counts = self.results.counts(variant, "forgetting", ("problems", "wordings"), seeds)[..., :-1]  # (S, N, 8)
        pooled = np.einsum("rn,snk->rsk", self.draws.problems(counts.shape[1]), counts)
        return (entropy_bits(pooled) * self.draws.seeds(len(counts))).sum(axis=1)

    def cad_against_fixed(self, variant: str, seeds: list[int], count: int) -> np.ndarray:
        """Accuracy of CAD less that of the first fixed budget, at the forward passes the latter takes: (R,).

        Where CAD's loosest threshold takes more than that, at those of the threshold.
        """
        fixed = f"fixed-{self.results.study.fixed_steps[0]:g}"
        right, spent = (self.decoder_mean(variant, fixed, what, seeds, count) for what in ("right", "nfe"))
        accuracy, nfe = self.curves(variant, "CAD", seeds, count)
        return accuracy_at(accuracy, nfe, np.maximum(spent, nfe.min(axis=1))) - right

    def of(self, measure: str, variant: str, seeds: list[int], count: int) -> np.ndarray:
        """One of the measures that a contrast may name, (R,)."""
        study = self.results.study
        if measure == "nfe":
            return family_nfe_at(*self.curves(variant, "CAD", seeds, count), self.target(count))
        if measure == "accuracy_at_nfe":
            return accuracy_at(*self.curves(variant, "CAD", seeds, count), study.budget)
        if measure == "accuracy":
            return self.decoder_mean(variant, self.results.headline, "right", seeds, count)
        if measure == "error_at_threshold":
            path = ("thresholds", f"{study.headline:g}", "problems")
            return self.ratio(variant, path, "confident_wrong", "confident", seeds, "calibration")
        if measure == "nll":
            return self.draws.mean(self.results.counts(variant, "forgetting", ("problems", "nll"), seeds))
        return self.wordings(variant, seeds)
