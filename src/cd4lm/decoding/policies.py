"""Which masked positions of the open blocks to commit at a step. A new decoding method is a new policy here and an
entry in options.py.

Letters: n active rows, b positions of the open blocks (the block length where one is open), K blocks, V vocabulary. A
policy scores positions (higher commits first), says how many to commit, may close a block, that is, commit whatever is
left, and may have several blocks open. The engine does the rest.
"""

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

from cd4lm.decoding.canvas import first_true
from cd4lm.decoding.config import DecodeConfig
from cd4lm.diffusion.noise import row_keys, uniform
from cd4lm.diffusion.sampling import negative_entropy


@dataclass(frozen=True)
class BlockView:
    """The open blocks of every active row, after the forward pass of a step.

    logits (n, b, V); confidence (n, b) float32, the softmax probability of the proposed token; masked (n, b) bool, in an
    open block and not committed; candidates (n, b) bool, masked and not held back; step (n,), 0 at the first one after
    a block was finished; keys (n,) for random numbers.
    """

    logits: torch.Tensor
    confidence: torch.Tensor
    masked: torch.Tensor
    candidates: torch.Tensor
    step: torch.Tensor
    keys: torch.Tensor


@dataclass(frozen=True)
class SeveralBlocksView(BlockView):
    """What a policy that opens several blocks sees too.

    share (n, K) float64, the committed share of every block; block (n, b), which of them a position is in.
    """

    share: torch.Tensor
    block: torch.Tensor


class Policy:
    """What the engine asks of a policy; one block at a time unless opens_several."""

    opens_several = False  # whether `reach` and `forced` say something

    def check(self, config: DecodeConfig) -> None:
        """Raise ValueError for settings that do not fit this policy."""

    def score(self, view: BlockView) -> torch.Tensor:
        """The order of commitment, (n, b), the highest first."""
        raise NotImplementedError

    def count(self, score: torch.Tensor, view: BlockView, config: DecodeConfig) -> torch.Tensor:
        """How many of the highest-scoring candidates to commit, (n,)."""
        raise NotImplementedError

    def closes(self, view: BlockView, config: DecodeConfig) -> torch.Tensor:
        """Rows (n,) bool whose masked positions are all committed now."""
        return torch.zeros_like(view.step, dtype=torch.bool)

    def reach(self, share: torch.Tensor) -> torch.Tensor:
        """How many of a row's blocks, from its first, are finished or open, given their committed shares (n, K): (n,)."""
        raise NotImplementedError

    def forced(self, view: SeveralBlocksView) -> torch.Tensor:
        """Positions (n, b) bool of which at least one candidate is committed whatever the count says."""
        raise NotImplementedError


@dataclass(frozen=True)
class FixedSteps(Policy):
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
class StepBudget(Policy):
    """Commit the same number of most confident tokens at every step, whatever the block length and the confidence."""

    tokens: int = 2

    def __post_init__(self):
        if self.tokens < 1:
            raise ValueError(f"tokens={self.tokens} per step must be at least 1")

    def score(self, view: BlockView) -> torch.Tensor:
        return view.confidence

    def count(self, score: torch.Tensor, view: BlockView, config: DecodeConfig) -> torch.Tensor:
        return torch.full_like(view.step, self.tokens)


@dataclass(frozen=True)
class Adaptive(Policy):
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

    def accepted(self, score: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
        """How many candidates (n, b) of each row pass the policy's rule, before the limits: (n,)."""
        raise NotImplementedError

    def count(self, score: torch.Tensor, view: BlockView, config: DecodeConfig) -> torch.Tensor:
        return self.accepted(score, view.candidates).clamp(self.min_tokens, self.max_tokens)

    def closes(self, view: BlockView, config: DecodeConfig) -> torch.Tensor:
        if self.max_steps_per_block is None:
            return super().closes(view, config)
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


CERTAINTIES = ("entropy", "confidence")


@dataclass(frozen=True)
class MultiBlock(Policy):
    """Several blocks open at once: d3LLM's rule (arXiv 2601.07568), TAD's (2605.09536), nearly D2F's (2508.09192).

    Block i + 1 opens when block i has committed a share block_add_threshold of its tokens and is fully active from
    decoded_token_threshold on. Every position of an open block whose entropy (nats) is at most the threshold is
    committed, always the least entropic of all, and at least one of the first unfinished fully active block. That is
    the first unfinished block, since the one before it is finished: decoded_token_threshold, which the published program
    has, changes no answer. (In D2F every fully active block commits one.) Which blocks are open follows from the counts
    of committed tokens alone, so there is no state.
    certainty: with `confidence` positions whose confidence is at least the threshold are committed, as in CAD.
    window: most blocks, from the first unfinished one on, that may be open; None = as many as the shares open.
    """

    threshold: float = 0.5
    block_add_threshold: float = 0.5
    decoded_token_threshold: float = 0.5
    certainty: str = field(default="entropy", kw_only=True)
    window: int | None = field(default=None, kw_only=True)

    opens_several = True

    def __post_init__(self):
        if self.certainty not in CERTAINTIES:
            raise ValueError(f"certainty={self.certainty!r} is unknown: use {' or '.join(CERTAINTIES)}")
        if self.certainty == "entropy" and not 0 <= self.threshold < math.inf:
            raise ValueError(f"threshold={self.threshold} must be 0 or above: it is an entropy in nats")
        if self.certainty == "confidence" and not 0 < self.threshold <= 1:
            raise ValueError(f"threshold={self.threshold} is not a probability: use a value in (0, 1]")
        for name in ("block_add_threshold", "decoded_token_threshold"):
            if not 0 < vars(self)[name] <= 1:
                raise ValueError(f"{name}={vars(self)[name]} is not a share of a block: use a value in (0, 1]")
        if self.window is not None and self.window < 1:
            raise ValueError(f"window={self.window} must be at least 1 block, or None for no limit")

    def check(self, config: DecodeConfig) -> None:
        if self.window is not None and self.window > config.blocks:
            raise ValueError(
                f"window={self.window} is larger than the canvas: gen_length={config.gen_length} has {config.blocks} "
                "blocks, lower it or leave it out"
            )
        if config.cache in ("prefix", "dual"):
            raise ValueError(
                f"cache={config.cache!r} keeps keys and values around one block, several are open here: use cache='none', "
                "or 'block' with a block-causal checkpoint"
            )

    def score(self, view: BlockView) -> torch.Tensor:
        return negative_entropy(view.logits) if self.certainty == "entropy" else view.confidence

    def count(self, score: torch.Tensor, view: BlockView, config: DecodeConfig) -> torch.Tensor:
        least = -self.threshold if self.certainty == "entropy" else self.threshold
        return ((score >= least) & view.candidates).sum(dim=1).clamp(min=1)

    def reach(self, share: torch.Tensor) -> torch.Tensor:
        opened = first_true(share < self.block_add_threshold) + 1
        return opened if self.window is None else torch.minimum(opened, first_true(share < 1) + self.window)

    def forced(self, view: SeveralBlocksView) -> torch.Tensor:
        active = F.pad(view.share[:, :-1] >= self.decoded_token_threshold, (1, 0), value=True)
        return view.block == first_true(active & (view.share < 1))[:, None]
