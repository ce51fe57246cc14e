"""Which answer positions are masked in training, each rule a pure function of row keys (see noise.py).

`answer` is bool (B, L), true where a token may be masked; n is its count per row. Prompt and padding never are.
"""

import math

import torch

from cd4lm.diffusion.noise import row_keys, uniform


def random_ranks(answer: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """A random permutation of each row's answer positions: rank 0..n-1 there, L elsewhere. (B, L) int64."""
    order = noise.masked_fill(~answer, 2.0)  # noise is below 1, so answer positions come first
    ranks = order.argsort(dim=1).argsort(dim=1)
    return ranks.masked_fill(~answer, answer.shape[1])


def scale(noise: torch.Tensor, bounds: tuple[float, float]) -> torch.Tensor:
    """Uniform noise in (0, 1) stretched to bounds."""
    low, high = bounds
    return low + (high - low) * noise


def nested_masks(
    answer: torch.Tensor,
    keys: torch.Tensor,
    *,
    student_ratio: tuple[float, float] = (0.40, 0.90),
    teacher_share: tuple[float, float] = (0.30, 0.70),
    teacher_ratio: tuple[float, float] = (0.10, 0.60),
    short_guards: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Student and teacher masks of one answer, the teacher's within the student's (CD4LM, DSCD, nested sampling).

    r_s ~ U(student_ratio), r_t = clip(r_s U(teacher_share), teacher_ratio); the student masks int(n r_s) random
    positions, the teacher the first int(n r_t) of them. `short_guards` are the published ones for short answers:
    n < 20 caps r_s at 0.5, at least max(2, ceil(0.1 n)) student masks, and n <= 10 masks 2 and 1.
    keys: (B,) int64. Returns two bool (B, L). An answer of n tokens never masks more than n.
    """
    n = answer.sum(dim=1).double()
    draws = uniform(keys, 2 + answer.shape[1])
    r_s = scale(draws[:, 0], student_ratio)
    if short_guards:
        r_s = torch.where(n < 20, r_s.clamp(max=0.5), r_s)
    r_t = (r_s * scale(draws[:, 1], teacher_share)).clamp(*teacher_ratio)
    n_s, n_t = (n * r_s).floor(), (n * r_t).floor()
    if short_guards:
        n_s = torch.maximum(n_s, (0.1 * n).ceil().clamp(min=2))
        n_s, n_t = n_s.where(n > 10, 2.0), n_t.where(n > 10, 1.0)
    # Without the guards a short answer can round to nothing, and a row without a mask has no loss.
    n_s = torch.minimum(n_s.clamp(min=1), n)
    n_t = torch.minimum(n_t.clamp(min=1), n_s)
    ranks = random_ranks(answer, draws[:, 2:])
    return ranks < n_s[:, None], ranks < n_t[:, None]


def independent_masks(answer: torch.Tensor, keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Student and teacher masks drawn apart at times t > t' (CD4LM, DSCD, independent sampling).

    t ~ U{1..1000}, t' ~ U{0..t-1}, each answer position masked with probability mask_ratio(t) or mask_ratio(t').
    keys: (B,) int64. Returns two bool (B, L); the teacher's need not lie within the student's.
    """
    L = answer.shape[1]
    draws = uniform(keys, 2 + 2 * L)
    t = (draws[:, 0] * 1000).floor() + 1
    t_teacher = (draws[:, 1] * t).floor()
    student = (draws[:, 2 : 2 + L] < mask_ratio(t)[:, None]) & answer
    teacher = (draws[:, 2 + L :] < mask_ratio(t_teacher)[:, None]) & answer
    return student, teacher


def mask_ratio(t: torch.Tensor) -> torch.Tensor:
    """Masked share at time t in 0..1000: sin^2(((t/1000 + 0.008) / 1.008) pi/2) (cosine schedule, CD4LM)."""
    return torch.sin((t / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2


def uniform_count_masks(answer: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Mask k ~ U{1..n} random answer positions: LLaDA's t ~ U(0, 1) with the count made exact. bool (B, L)."""
    n = answer.sum(dim=1).double()
    draws = uniform(keys, 1 + answer.shape[1])
    k = (draws[:, 0] * n).floor() + 1
    return random_ranks(answer, draws[:, 1:]) < k[:, None]


def chosen_block(
    answer: torch.Tensor, noise: torch.Tensor, block_length: int, offset: torch.Tensor | int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """One block of each row, uniform over its blocks, and those after it: bool (B, L) twice.

    noise: (B,) in (0, 1). offset: (B,) positions of the first block that the prompt takes, on a grid that counts from
    position 0.
    """
    blocks = ((answer.sum(dim=1) + offset).double() / block_length).ceil()
    index = answer.long().cumsum(dim=1) - 1  # (B, L) place within the answer
    if isinstance(offset, torch.Tensor):
        index = index + offset[:, None]
    block, chosen = index.div(block_length, rounding_mode="floor"), (noise * blocks).floor()[:, None]
    return answer & (block == chosen), answer & (block > chosen)


def block_state_masks(answer: torch.Tensor, keys: torch.Tensor, block_length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """States that block-wise decoding visits: earlier blocks clean, one block partly masked, later ones all masked.

    The current block is uniform over the row's blocks, its masked count uniform over 1..size.
    keys: (B,) int64. Returns bool (B, L) twice: masked, and masked within the current block (where decoding commits).
    """
    draws = uniform(keys, 2 + answer.shape[1])
    current, later = chosen_block(answer, draws[:, 0], block_length)
    size = current.sum(dim=1).double()
    k = (draws[:, 1] * size).floor() + 1
    here = random_ranks(current, draws[:, 2:]) < k[:, None]
    return here | later, here


def block_nested_masks(
    answer: torch.Tensor, keys: torch.Tensor, *, block_length: int, teacher_share: tuple[float, float]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two states of one block-wise decoding, the student's earlier, the teacher's later in the same block.

    Student: block_state_masks, as CAD meets it. Teacher: of the k tokens masked in the current block
    max(1, int(k U(teacher_share))) random ones, later blocks all masked too, so it is a subset of the student's.
    keys: (B,) int64. Returns bool (B, L) three times: student, teacher, and the current block's student masks, where
    CAD commits and the losses are taken.
    """
    student, here = block_state_masks(answer, keys, block_length)
    draws = uniform(row_keys(keys, 1), 1 + answer.shape[1])  # a salt of its own: block_state_masks used the first
    k = here.sum(dim=1)
    n_t = (k * scale(draws[:, 0], teacher_share)).floor().clamp(min=1)
    hidden = random_ranks(here, draws[:, 1:]) < n_t[:, None]
    return student, hidden | (student & ~here), here


def complementary_masks(
    answer: torch.Tensor,
    keys: torch.Tensor,
    *,
    block_length: int,
    ratio: float,
    order: torch.Tensor | None = None,
    offset: torch.Tensor | int = 0,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two states that mask one block in turn: what one masks of it the other shows (dParallel; d3LLM with `order`).

    The block is chosen as in chosen_block; blocks before it are clean in both states and those after it masked. The
    first state masks ceil(ratio n) of the block's n tokens: random ones, or those that a path commits last, so that it
    is the path's own state there whatever blocks the path was recorded with. order: (B, L), see trajectory.py.
    keys: (B,) int64. Returns bool (B, L) three times: masked of the block in the first and in the second state, and
    the blocks after it.
    """
    draws = uniform(keys, 1 + answer.shape[1])
    current, later = chosen_block(answer, draws[:, 0], block_length, offset)
    k = (ratio * current.sum(dim=1).double()).ceil()
    ranks = random_ranks(current, draws[:, 1:] if order is None else -order.double())
    first = ranks < k[:, None]
    return first, current & ~first, later
