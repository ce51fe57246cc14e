"""Losses from hidden rows, a few rows at a time: the logits of a whole batch never exist.

At 126,464 words one position's logits take half a megabyte in float32 and the loss needs about eight such arrays. Here
a chunk's logits, loss and gradients are computed and dropped before the next chunk's, already in the forward pass: the
gradient of a scalar loss is known up to its factor, so backward only multiplies. Nothing is computed twice, and the
heads' weights are not needed after the forward pass, in which a sharding launcher holds them.

Letters: N rows with a loss, M rows with a KL, d d_model, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from cd4lm.config import require
from cd4lm.diffusion.losses import DSCDLoss, dscd_mix, dscd_rows


@dataclass(frozen=True)
class Rows:
    """Hidden rows (N, d) and the weight (V, d) of the head that turns them into logits."""

    hidden: torch.Tensor
    head: torch.Tensor

    def to(self, dtype: torch.dtype) -> "Rows":
        return Rows(self.hidden.to(dtype), self.head.to(dtype))

    def detach(self) -> "Rows":
        return Rows(self.hidden.detach(), self.head.detach())


def compute_dtype(head: torch.Tensor) -> torch.dtype:
    """The dtype of a matrix product with this weight: autocast's where it is on, else the weight's."""
    kind = head.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else head.dtype


def chunks(kept: torch.Tensor, size: int) -> list[tuple[slice, slice]]:
    """Slices of the N rows, and of the M kept rows that fall into each: bool (N,) -> [(rows, kept rows)]."""
    starts = list(range(0, kept.numel(), size))
    before = [0, *kept.cumsum(dim=0)[[min(s + size, kept.numel()) - 1 for s in starts]].tolist()]
    return [(slice(s, s + size), slice(before[i], before[i + 1])) for i, s in enumerate(starts)]


def walk(
    student: Rows,
    teacher: Rows | None,
    labels: torch.Tensor | None,
    kept: torch.Tensor,
    temperature: float,
    size: int,
    visit: Callable[[slice, slice, torch.Tensor, torch.Tensor, torch.Tensor], None] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """dscd_rows of all rows, chunk by chunk.

    visit(rows, kept rows, logits (n, V), kl, nll) is called while a chunk's graph from its logits exists.
    """
    kls, nlls = [], []
    for part, kept_part in chunks(kept, size):
        z_s = (student.hidden[part] @ student.head.T).float()  # (n, V)
        z_t = None if teacher is None else teacher.hidden[kept_part] @ teacher.head.T  # (m, V)
        with torch.set_grad_enabled(visit is not None):
            z_s.requires_grad_(visit is not None)
            kl, nll = dscd_rows(z_s, z_t, None if labels is None else labels[part], kept[part], temperature)
        if visit is not None:
            visit(part, kept_part, z_s, kl, nll)
        kls.append(kl.detach()), nlls.append(nll.detach())
    empty = torch.zeros(0, device=kept.device)
    return (torch.cat(kls), torch.cat(nlls)) if kls else (empty, empty)


class _WeightedRows(torch.autograd.Function):
    """(kl_weights . kl + nll_weights . nll, kl (M,), nll (N,)).

    The first has a gradient for the student's rows and head.
    """

    @staticmethod
    def forward(ctx, hidden, head, dtype, teacher, labels, kept, temperature, size, kl_weights, nll_weights):
        student = Rows(hidden, head).to(dtype)
        d_hidden = torch.empty_like(hidden)
        # float32, since chunk after chunk is added to it.
        d_head = torch.zeros_like(head, dtype=torch.float32) if ctx.needs_input_grad[1] else None

        def accumulate(part, kept_part, logits, kl, nll):
            with torch.enable_grad():
                value = (kl_weights[kept_part] * kl).sum() + (nll_weights[part] * nll).sum()
                (slope,) = torch.autograd.grad(value, logits)  # (n, V)
            slope = slope.to(student.head.dtype)
            d_hidden[part] = (slope @ student.head).to(hidden.dtype)
            if d_head is not None and slope.dtype == d_head.dtype:
                d_head.addmm_(slope.T, student.hidden[part])
            elif d_head is not None:
                d_head.add_(slope.T @ student.hidden[part])

        kl, nll = walk(student, teacher, labels, kept, temperature, size, accumulate)
        ctx.gradients = [d_hidden, None if d_head is None else d_head.to(head.dtype)]
        ctx.mark_non_differentiable(kl, nll)
        return (kl_weights * kl).sum() + (nll_weights * nll).sum(), kl, nll

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, slope, *_):
        # Scaled in place, so they can be used once: a second backward is an error instead of a wrong gradient.
        d_hidden, d_head = ctx.gradients
        ctx.gradients = None
        return d_hidden.mul_(slope), None if d_head is None else d_head.mul_(slope), *[None] * 8


def learns(student: Rows) -> bool:
    return torch.is_grad_enabled() and (student.hidden.requires_grad or student.head.requires_grad)


def weighted_rows(
    student: Rows,
    target: Rows | None,
    labels: torch.Tensor | None,
    weights: torch.Tensor,
    *,
    chunk: int,
) -> torch.Tensor:
    """sum_i w_i KL(target_i || student_i), or with labels and no target sum_i w_i CE(student_i, label_i), in nats.

    student, target: N rows each with its head; labels, weights: (N,). The target has no gradient. Equal to the pure
    losses of src/cd4lm/diffusion/losses.py in value and gradient; memory grows with `chunk` alone.
    """
    kept = torch.full_like(weights, target is not None, dtype=torch.bool)
    target = None if target is None else target.detach().to(compute_dtype(target.head))
    kl_weights = weights[:0] if target is None else weights
    nll_weights = torch.zeros_like(weights) if labels is None else weights
    fixed = (target, labels, kept, 1.0, chunk)
    dtype = compute_dtype(student.head)
    with torch.autocast(weights.device.type, enabled=False):
        if learns(student):
            return _WeightedRows.apply(student.hidden, student.head, dtype, *fixed, kl_weights, nll_weights)[0]
        kl, nll = walk(student.detach().to(dtype), *fixed)
    return (kl_weights * kl).sum() + (nll_weights * nll).sum()


def chunked_dscd_loss(
    student: Rows,
    teacher: Rows | None,
    labels: torch.Tensor,
    *,
    temperature: float = 2.0,
    weight: float,
    clamp: float | None = None,
    consistency_at: torch.Tensor | None = None,
    counts: tuple[torch.Tensor, torch.Tensor] | None = None,
    chunk: int = 128,
) -> DSCDLoss:
    """dscd_loss, equal in value and gradient, from hidden rows instead of logits; memory grows with `chunk` alone.

    student: N rows; teacher: the M rows named by consistency_at (N,), default all; labels: (N,) clean tokens.
    Only `total` carries a gradient, to the student's rows and, unless it is frozen, head. Others as for dscd_loss.
    """
    require(teacher is not None or weight == 0, f"weight={weight} needs a teacher: only weight=0 trains without one")
    kept = torch.ones_like(labels, dtype=torch.bool) if consistency_at is None else consistency_at
    n_kl, n_nll = (kept.sum().clamp(min=1), max(labels.numel(), 1)) if counts is None else counts
    scales = temperature**2 / n_kl, 1.0 / n_nll
    dtype = compute_dtype(student.head)
    teacher = None if teacher is None else teacher.detach().to(compute_dtype(teacher.head))
    fixed = (teacher, labels, kept, temperature, chunk)
    with torch.autocast(labels.device.type, enabled=False):
        if clamp is not None or not learns(student):
            with torch.no_grad():
                kl, nll = (rows.sum() for rows in walk(student.detach().to(dtype), *fixed))
        factors = weight * scales[0], (1 - weight) * scales[1]
        if clamp is not None:  # a part whose mean exceeds the clamp has no gradient
            flows = [(mean >= 0) & (mean <= clamp) for mean in (scales[0] * kl, scales[1] * nll)]
            factors = factors[0] * flows[0], factors[1] * flows[1]
        slope = 0.0  # zero in value, with the gradient of the whole
        if learns(student):
            ones = torch.ones(len(kept), device=labels.device)
            weights = (factors[0] * ones[: int(kept.sum())], factors[1] * ones)
            linear, *rows = _WeightedRows.apply(student.hidden, student.head, dtype, *fixed, *weights)
            kl, nll = (row.sum() for row in rows)
            slope = linear - linear.detach()
    loss = dscd_mix(scales[0] * kl, scales[1] * nll, weight, clamp)
    return loss._replace(total=loss.total + slope)
