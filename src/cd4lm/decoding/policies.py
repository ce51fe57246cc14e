"""Which masked positions of the current block to commit at a step. A new decoding method is a new policy here and an
entry in options.py.

Letters: n active rows, b block length, V vocabulary. A policy scores positions (higher commits first), says how many
to commit, and may close a block, that is, commit whatever is left. The engine does the rest.
"""

import math
from dataclasses import dataclass, field
from typing import Protocol

import torch
import torch.nn.functional as F

from cd4lm.decoding.config import DecodeConfig
from cd4lm.diffusion.noise import row_keys, uniform
from cd4lm.diffusion.sampling import negative_entropy


@dataclass(frozen=True)
class BlockView:
    """The current block of every active row, after the forward pass of a step.

    logits (n, b, V); confidence (n, b) float32, the softmax probability of the proposed token; masked (n, b) bool;
    candidates (n, b) bool, masked and not held back; step (n,), 0 at the block's first; keys (n,) for random numbers.
    """

    logits: torch.Tensor
    confidence: torch.Tensor
    masked: torch.Tensor
    candidates: torch.Tensor
    step: torch.Tensor
    keys: torch.Tensor


class Policy(Protocol):
    def check(self, config: DecodeConfig) -> None: ...

    def score(self, view: BlockView) -> torch.Tensor: ...

    def count(self, score: torch.Tensor, view: BlockView, config: DecodeConfig) -> torch.Tensor: ...

    def closes(self, view: BlockView, config: DecodeConfig) -> torch.Tensor: ...


@dataclass(frozen=True)
class FixedSteps:
    """Commit an equal share of the block at each of steps/blocks steps (LLaDA, low-confidence or random remasking)."""

    steps: int = 256
    remasking: str = "low_confidence"

    def __post_init__(self):
        if self.steps < 1:
            raise ValueError(f"steps={self.steps} must be at least 1")
        if self.remasking not in ("low_confidence", "random"):
            raise ValueError(f"remasking={self.remasking!r} is unknown: use low_confidence or random")

    def check(self, config: DecodeConfig) -> None:
        if self.steps % config.blocks or self.steps > config.gen_length:
            raise ValueError(
                f"steps={self.steps} must be a multiple of the {config.blocks} blocks "
                f"and at most gen_length={config.gen_length}"
            )

    def score(self, view: BlockView) -> torch.Tensor:
        if self.remasking == "random":
            # A salt of its own: the keys' first numbers may already have sampled the tokens.
            return uniform(row_keys(view.keys, 1), view.masked.shape[1])
        return view.confidence

    def count(self, score: torch.Tensor, view: BlockView, config: DecodeConfig) -> torch.Tensor:
        steps_left = (self.steps // config.blocks - view.step).clamp(min=1)
        remaining = view.masked.sum(dim=1)
        return (remaining + steps_left - 1).div(steps_left, rounding_mode="floor")

    def closes(self, view: BlockView, config: DecodeConfig) -> torch.Tensor:
        return view.step >= self.steps // config.blocks - 1


@dataclass(frozen=True)
class StepBudget:
    """Commit the same number of most confident tokens at every step, whatever the block length and the confidence."""

    tokens: int = 2

    def __post_init__(self):
        if self.tokens < 1:
            raise ValueError(f"tokens={self.tokens} per step must be at least 1")

    def check(self, config: DecodeConfig) -> None:
        """Any block length will do."""

    def score(self, view: BlockView) -> torch.Tensor:
        return view.confidence

    def count(self, score: torch.Tensor, view: BlockView, config: DecodeConfig) -> torch.Tensor:
        return torch.full_like(view.step, self.tokens)

    def closes(self, view: BlockView, config: DecodeConfig) -> torch.Tensor:
        return torch.zeros_like(view.step, dtype=torch.bool)


@dataclass(frozen=True)
class Adaptive:
    """Commit as many of the highest-scoring candidates as `accepted` says, between min_tokens and max_tokens per step.

    After max_steps_per_block steps the next one commits all that is left of the block.
    """

    min_tokens: int = field(default=1, kw_only=True)
    max_tokens: int = field(default=32, kw_only=True)
    max_steps_per_block: int | None = field(default=None, kw_only=True)

    def __post_init__(self):
        if not 1 <= self.min_tokens <= self.max_tokens:
            raise ValueError(f"need 1 <= min_tokens={self.min_tokens} <= max_tokens={self.max_tokens}")
        if self.max_steps_per_block is not None and self.max_steps_per_block < 1:
            raise ValueError(f"max_steps_per_block={self.max_steps_per_block} must be at least 1, or None for no limit")

    def check(self, config: DecodeConfig) -> None:
        """Any block length will do."""

    def accepted(self, score: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
        """How many candidates (n, b) of each row pass the policy's rule, before the limits: (n,)."""
        raise NotImplementedError

    def count(self, score: torch.Tensor, view: BlockView, config: DecodeConfig) -> torch.Tensor:
        return self.accepted(score, view.candidates).clamp(self.min_tokens, self.max_tokens)

    def closes(self, view: BlockView, config: DecodeConfig) -> torch.Tensor:
        if self.max_steps_per_block is None:
            return torch.zeros_like(view.step, dtype=torch.bool)
        return view.step >= self.max_steps_per_block


@dataclass(frozen=True)
class ConfidenceAdaptive(Adaptive):
    """CAD: k = min(max(#{confidence >= threshold}, min_tokens), max_tokens, #candidates) most confident (CD4LM)."""

    threshold: float = 0.95

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.threshold <= 1:
            raise ValueError(f"threshold={self.threshold} is not a probability: use a value in (0, 1]")

    def score(self, view: BlockView) -> torch.Tensor:
        return view.confidence

    def accepted(self, score: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
        return ((score >= self.threshold) & candidates).sum(dim=1)


@dataclass(frozen=True)
class EntropyAdaptive(Adaptive):
    """As CAD, with negative entropy in nats as the score; the threshold is at most 0 (CD4LM, entropy variant)."""

    threshold: float = -0.3

    def __post_init__(self):
        super().__post_init__()
        if not self.threshold <= 0:
            raise ValueError(f"threshold={self.threshold} must be at most 0: it is a negative entropy in nats")

    def score(self, view: BlockView) -> torch.Tensor:
        return negative_entropy(view.logits)

    def accepted(self, score: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
        return ((score >= self.threshold) & candidates).sum(dim=1)


# Policies that bound what is lost by committing several tokens at once, and commit as many as the bound allows.


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
