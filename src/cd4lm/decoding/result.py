"""What a decoding run returns."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class DecodeResult:
    """Answers and how they came about, one row per prompt; G is gen_length.

    index: (B,) which prompts these are.
    tokens: (B, G), no mask left; with stop_at_eos everything after the first EOS is that EOS.
    nfe: (B,) forward passes each row took part in.
    lengths: (B,) tokens before the first EOS, the only ones that count as generated.
    commits: per row, how many tokens each of its steps committed.
    commit_step: (B, G) step at which a position was committed, -1 where it was filled after an early stop.
    confidence: (B, G) float32 softmax probability of the token when it was committed, 0 where filled.
    prompts: per row, the prompt, with its masks answered when infilling.
    """

    index: torch.Tensor
    tokens: torch.Tensor
    nfe: torch.Tensor
    lengths: torch.Tensor
    commits: list[list[int]]
    commit_step: torch.Tensor
    confidence: torch.Tensor
    prompts: list[torch.Tensor]

    @classmethod
    def join(cls, parts: list["DecodeResult"]) -> "DecodeResult":
        """All rows of several results in the order of their prompts."""
        order = torch.cat([part.index for part in parts]).argsort()
        joined = {}
        for name in ("commits", "prompts"):
            rows = [row for part in parts for row in vars(part)[name]]
            joined[name] = [rows[i] for i in order.tolist()]
        for name in ("index", "tokens", "nfe", "lengths", "commit_step", "confidence"):
            joined[name] = torch.cat([vars(part)[name] for part in parts])[order]
        return cls(**joined)

    def row(self, i: int) -> "DecodeResult":
        """Row i alone, as a result of one prompt."""
        one = {name: value[i : i + 1] for name, value in vars(self).items()}
        return DecodeResult(**one)
