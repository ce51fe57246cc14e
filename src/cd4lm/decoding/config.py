"""What a decoding run fixes apart from the policy."""

from dataclasses import dataclass

CACHES = ("none", "plain", "prefix", "dual", "block")  # what each recomputes: caches.py


def exact_cache(attention: str) -> str:
    """The fastest cache that changes no token of a model with this attention."""
    return "none" if attention == "bidirectional" else "block"


@dataclass(frozen=True)
class DecodeConfig:
    """Settings of one decoding run.

    mask_id: the token of a position not yet committed. eos_ids: tokens that end an answer.
    gen_length: answer canvas in tokens. block_length: the canvas is decoded in blocks of this many, left to right.
    temperature: 0 takes the most likely token, above 0 samples (Gumbel noise, float64).
    cfg_scale: classifier-free guidance; above 0 each forward holds the batch twice and still counts as one NFE.
    eos_hold_ratio: no EOS is committed while a smaller share of the canvas than this is (CD4LM's eos_threshold_ratio).
    stop_at_eos: finish a row once everything before its first committed EOS is committed; the rest is filled with it.
    CDLM stops when a finished block holds EOS: later, with the same answer.
    cache: what is recomputed at each step, see caches.py: none (exact), plain (exact, as published: slow), prefix and
    dual (approximate), block (exact, for block-causal checkpoints). refresh_interval: with prefix and dual, recompute a
    row's whole canvas every so many steps of a block besides the block's first; None = only there, 1 = always, which
    equals none. seed: of sampling and `random` remasking. infill: masks inside a prompt are answered too, in blocks of
    their own before the answer's.
    block_grid: absolute counts blocks from a row's first token, answer from where its answer starts; None = the model's
    own, and answer for a bidirectional one.
    compile: run a compiled step of static shape, canvases padded to a multiple of length_bucket and batches to their
    full size; on a GPU the whole step is captured as a CUDA graph. The first step of each shape is slow.
    """

    mask_id: int
    eos_ids: tuple[int, ...] = ()
    gen_length: int = 256
    block_length: int = 32
    temperature: float = 0.0
    cfg_scale: float = 0.0
    eos_hold_ratio: float = 0.0
    stop_at_eos: bool = True
    cache: str = "none"
    seed: int = 0
    refresh_interval: int | None = None
    infill: bool = False
    block_grid: str | None = None
    compile: bool = False
    length_bucket: int = 64

    def __post_init__(self):
        if self.gen_length < 1 or self.block_length < 1:
            raise ValueError(f"gen_length={self.gen_length} and block_length={self.block_length} must be at least 1")
        if self.gen_length % self.block_length:
            raise ValueError(
                f"gen_length={self.gen_length} is not a multiple of block_length={self.block_length}: change one of them"
            )
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature={self.temperature} must be 0 (greedy) or above")
        if not 0 <= self.cfg_scale < float("inf"):
            raise ValueError(f"cfg_scale={self.cfg_scale} must be 0 (off) or above")
        if not 0 <= self.eos_hold_ratio <= 1:
            raise ValueError(f"eos_hold_ratio={self.eos_hold_ratio} must lie in [0, 1]")
        if self.eos_hold_ratio > 0 and not self.eos_ids:
            raise ValueError("eos_hold_ratio needs eos_ids: name the tokens to hold back")
        if self.cache not in CACHES:
            raise ValueError(f"cache={self.cache!r} is unknown: use one of {', '.join(CACHES)}")
        if self.refresh_interval is not None:
            if self.refresh_interval < 1:
                raise ValueError(f"refresh_interval={self.refresh_interval} must be at least 1, or None")
            if self.cache not in ("prefix", "dual"):
                raise ValueError(f"refresh_interval means nothing with cache={self.cache!r}: use prefix or dual")
        if self.infill and self.cache in ("prefix", "dual", "block"):
            raise ValueError(f"infill needs a cache that recomputes everything, not {self.cache!r}: use cache='none'")
        if self.block_grid not in (None, "answer", "absolute"):
            raise ValueError(f"block_grid={self.block_grid!r} is unknown: use answer or absolute")
        if self.length_bucket < 1:
            raise ValueError(f"length_bucket={self.length_bucket} must be at least 1")

    def grid_of(self, model_config) -> str | None:
        """Where blocks are counted from: as asked, else as the model does."""
        return self.block_grid or model_config.block_grid

    @property
    def blocks(self) -> int:
        return self.gen_length // self.block_length
