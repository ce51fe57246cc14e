"""What a decoding run fixes apart from the policy."""

from dataclasses import dataclass

from src.decoding.caches import CACHES


@dataclass(frozen=True)
class DecodeConfig:
    """Settings of one decoding run.

    mask_id: the token of a position not yet committed. eos_ids: tokens that end an answer.
    gen_length: answer canvas in tokens. block_length: the canvas is decoded in blocks of this many, left to right.
    temperature: 0 takes the most likely token, above 0 samples (Gumbel noise, float64).
    cfg_scale: classifier-free guidance; above 0 each forward holds the batch twice and still counts as one NFE.
    eos_hold_ratio: no EOS is committed while a smaller share of the canvas than this is (CD4LM's eos_threshold_ratio).
    stop_at_eos: finish a row once everything before its first committed EOS is committed; the rest is filled with it.
    cache: what is recomputed at each step, see caches.py. seed: of sampling and `random` remasking.
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

    def __post_init__(self):
        if self.gen_length < 1 or self.block_length < 1:
            raise ValueError(f"gen_length={self.gen_length} and block_length={self.block_length} must be at least 1")
        if self.gen_length % self.block_length:
            raise ValueError(
                f"gen_length={self.gen_length} is not a multiple of block_length={self.block_length}: change one of them"
            )
        if self.temperature < 0:
            raise ValueError(f"temperature={self.temperature} must be 0 (greedy) or above")
        if self.cfg_scale < 0:
            raise ValueError(f"cfg_scale={self.cfg_scale} must be 0 (off) or above")
        if not 0 <= self.eos_hold_ratio <= 1:
            raise ValueError(f"eos_hold_ratio={self.eos_hold_ratio} must lie in [0, 1]")
        if self.eos_hold_ratio > 0 and not self.eos_ids:
            raise ValueError("eos_hold_ratio needs eos_ids: name the tokens to hold back")
        if self.cache not in CACHES:
            raise ValueError(f"cache={self.cache!r} is unknown: use one of {', '.join(CACHES)}")

    @property
    def blocks(self) -> int:
        return self.gen_length // self.block_length
