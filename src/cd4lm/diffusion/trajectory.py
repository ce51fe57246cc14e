"""States on a recorded decoding path, and what lies between two of them (CDLM, TAD).

`order` is int (B, L): the step, from 0, at which the teacher committed a token, one token per step and blocks left to
right; -1 where there is no answer. A state at step s has committed the tokens with an order below s.
"""

from typing import NamedTuple

import torch

from cd4lm.diffusion.noise import uniform


class TrajectoryPair(NamedTuple):
    """A state y and a later one y*, bool (B, L) each.

    masked: in y; later_masked: in y*; committed: U, between the two; remaining: S, compared by the consistency loss.
    """

    masked: torch.Tensor
    later_masked: torch.Tensor
    committed: torch.Tensor
    remaining: torch.Tensor


def trajectory_pair(
    order: torch.Tensor, keys: torch.Tensor, block_length: int, reach: str, offset: torch.Tensor | int = 0
) -> TrajectoryPair:
    """Two states of each row's path: y at a step s ~ U{0..n-1} of its n, y* later within the block of s (CDLM).

    reach: "later" takes y* at the end of the block, and S are all positions after it; "block" takes y* at a step
    ~ U{s+1..end}, and S are the block's positions that y* still masks. keys: (B,) int64, the only randomness.
    offset: (B,), positions of the first block that the prompt takes, on a grid that counts from position 0.
    """
    n = (order >= 0).sum(dim=1)  # (B,)
    draws = uniform(keys, 2)
    s = (draws[:, 0] * n).long()
    end = torch.minimum(((s + offset).div(block_length, rounding_mode="floor") + 1) * block_length - offset, n)
    until = end if reach == "later" else s + 1 + (draws[:, 1] * (end - s)).long()
    s, end, until = s[:, None], end[:, None], until[:, None]
    later = order >= until
    return TrajectoryPair(
        masked=order >= s,
        later_masked=later,
        committed=(order >= s) & ~later,
        remaining=later if reach == "later" else later & (order < end),
    )


def path_window(order: torch.Tensor, keys: torch.Tensor, delta: int) -> TrajectoryPair:
    """Two states of each row's path: y at a step s ~ U{0..n-1} of its n, y* delta steps later or at the end (TAD).

    U are the tokens that y* reveals, S all that it still masks. keys: (B,) int64, the only randomness.
    """
    n = (order >= 0).sum(dim=1)  # (B,)
    s = (uniform(keys, 1) * n[:, None]).long()  # (B, 1)
    masked, later = order >= s, order >= s + delta
    return TrajectoryPair(masked=masked, later_masked=later, committed=masked & ~later, remaining=later)
