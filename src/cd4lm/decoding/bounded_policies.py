"""Policies that bound what is lost by committing several tokens at once, and commit as many as the bound allows."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from cd4lm.decoding.policies import Adaptive, BlockView
from cd4lm.diffusion.sampling import negative_entropy


@dataclass(frozen=True)
class FactorAdaptive(Adaptive):
    """The largest n with (n + 1)(1 - c_(n)) < factor, c_(n) the n-th highest confidence (Fast-dLLM, arXiv 2505.22618).

    Their theorem: parallel greedy decoding equals sequential where (n + 1) epsilon <= 1, every confidence > 1 - epsilon.
    """

    factor: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.factor < math.inf:
            raise ValueError(f"factor={self.factor} must be a number above 0")

    def score(self, view: BlockView) -> torch.Tensor:
        return view.confidence

    def accepted(self, score: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
        c = score.masked_fill(~candidates, float("-inf")).sort(dim=1, descending=True).values  # (n, b)
        n = torch.arange(1, c.shape[1] + 1, device=c.device)
        return ((n + 1) * (1 - c) < self.factor).sum(dim=1)  # the left side grows with n: true, then false


@dataclass(frozen=True)
class EntropyBounded(Adaptive):
    """The largest set U of least entropic candidates with sum_U H - max_U H <= gamma, in nats (EB-Sampler).

    Ben-Hamu et al. 2025, arXiv 2505.24857: the left side bounds what committing U together loses. One always passes.
    """

    gamma: float = 0.1

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.gamma < math.inf:
            raise ValueError(f"gamma={self.gamma} must be 0 or above: it is a sum of entropies in nats")

    def score(self, view: BlockView) -> torch.Tensor:
        return negative_entropy(view.logits)

    def accepted(self, score: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
        H = (-score).masked_fill(~candidates, float("inf")).sort(dim=1).values  # (n, b), ascending
        others = F.pad(H[:, :-1].cumsum(dim=1), (1, 0))  # (n, b): the sum without the set's largest, its last
        return ((others <= self.gamma) & H.isfinite()).sum(dim=1)
