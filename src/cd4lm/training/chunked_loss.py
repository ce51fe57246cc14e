"""Losses from hidden rows, a few rows at a time: the logits of a whole batch never exist.

At 126,464 words one position's logits take half a megabyte in float32 and the loss needs about eight such arrays. Here
a chunk's logits, loss and gradients are computed and dropped before the next chunk's, already in the forward pass: the
gradient of a scalar loss is known up to its factor, so backward only multiplies. Nothing is computed twice, and the
heads' weights are not needed after the forward pass, in which a sharding launcher holds them.

Letters: N rows with a loss, M rows with a KL, d d_model, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from cd4lm.config import require
from cd4lm.diffusion.losses import (
    CertaintyLoss,
    DSCDLoss,
    certainty_rows,
    dscd_mix,
    mean_weights,
    right_weights,
)


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


class Part(NamedTuple):
    """A chunk: which of the N rows, and which of the M rows with a KL."""

    rows: slice
    kept: slice


EVERYTHING = Part(slice(None), slice(None))


def chunks(kept: torch.Tensor, size: int) -> list[Part]:
    """The N rows in chunks of `size`: bool (N,), true at the M rows with a KL."""
    starts = list(range(0, kept.numel(), size))
    before = [0, *kept.cumsum(dim=0)[[min(s + size, kept.numel()) - 1 for s in starts]].tolist()]
    return [Part(slice(s, s + size), slice(before[i], before[i + 1])) for i, s in enumerate(starts)]


def whole_rows(counts: list[int], size: int) -> list[Part]:
    """Neighbouring groups of counts[i] rows in chunks of at most `size` rows; a larger group is a chunk of its own."""
    parts, start, end = [], 0, 0
    for count in counts:
        if end > start and end + count - start > size:
            parts.append(Part(slice(start, end), slice(0, 0)))
            start = end
        end += count
    return [*parts, Part(slice(start, end), slice(0, 0))] if end > start else parts


class Buffers:
    """Arrays of logits' size that one chunk after another is written to.

    New ones would cost a CPU a page fault for every 4 kB of every array of every chunk, which takes as long as filling them.
    """

    def __init__(self):
        self.kept: dict[str, torch.Tensor] = {}

    def like(self, name: str, shape: tuple[int, int], model: torch.Tensor) -> torch.Tensor:
        """(n, V) of the dtype and device of `model`, with anything in it."""
        kept = self.kept.get(name)
        if kept is None or len(kept) < shape[0] or (kept.shape[1], kept.dtype) != (shape[1], model.dtype):
            kept = self.kept[name] = model.new_empty(shape)
        return kept[: shape[0]]

    def product(self, name: str, rows: torch.Tensor, head: torch.Tensor) -> torch.Tensor:
        """Logits (n, V) of rows (n, d), float32."""
        return torch.mm(rows, head.T, out=self.like(name, (len(rows), len(head)), rows)).float()

    def softmax(self, name: str, z: torch.Tensor) -> torch.Tensor:
        return torch.softmax(z, dim=-1, out=self.like(name, z.shape, z))


# What a loss knows of each row of a chunk, from the logits (n, V) of its part: a tuple of (n,) or (m,) tensors.
RowValues = Callable[[Part, torch.Tensor], tuple[torch.Tensor, ...]]


def walk(student: Rows, parts: list[Part], values: RowValues, visit: Callable | None = None) -> list[torch.Tensor]:
    """The values of all rows, chunk by chunk, each joined over the chunks.

    visit(part, logits, *values) is called while a chunk's graph from its logits exists.
    """
    found, buffers = [], Buffers()
    # Without a row one empty chunk still says how many values there are.
    for part in parts or [Part(slice(0, 0), slice(0, 0))]:
        with torch.no_grad():
            logits = buffers.product("logits", student.hidden[part.rows], student.head).detach()  # (n, V)
        with torch.set_grad_enabled(visit is not None):
            logits.requires_grad_(visit is not None)
            row = values(part, logits)
        if visit is not None:
            visit(part, logits, *row)
        found.append([value.detach() for value in row])
    return [torch.cat(column) for column in zip(*found, strict=True)]


class _ChunkedLoss(torch.autograd.Function):
    """(weigh(EVERYTHING, *values), then the values of all rows); the first has a gradient for the student's rows and head.

    weigh(part, *values of its rows) is a chunk's share of the scalar; the shares must add up to the whole.
    """

    @staticmethod
    def forward(ctx, hidden, head, dtype, parts, values, weigh):
        student = Rows(hidden, head).to(dtype)
        d_hidden = torch.empty_like(hidden)
        d_head = None  # float32, since chunk after chunk is added to it

        def accumulate(part, logits, *row):
            nonlocal d_head
            with torch.enable_grad():
                (slope,) = torch.autograd.grad(weigh(part, *row), logits)  # (n, V)
            slope = slope.to(student.head.dtype)
            d_hidden[part.rows] = (slope @ student.head).to(hidden.dtype)
            if not ctx.needs_input_grad[1]:
                return
            if d_head is None:
                d_head = (slope.T @ student.hidden[part.rows]).float()
            elif slope.dtype == d_head.dtype:
                d_head.addmm_(slope.T, student.hidden[part.rows])
            else:
                d_head.add_(slope.T @ student.hidden[part.rows])

        found = walk(student, parts, values, accumulate)
        ctx.gradients = [d_hidden, None if d_head is None else d_head.to(head.dtype)]
        ctx.mark_non_differentiable(*found)
        return weigh(EVERYTHING, *found), *found

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, slope, *_):
        # Scaled in place, so they can be used once: a second backward is an error instead of a wrong gradient.
        d_hidden, d_head = ctx.gradients
        ctx.gradients = None
        # The value is not known of a fake tensor, and a GPU would have to be waited for.
        known = type(slope) is torch.Tensor and slope.device.type == "cpu"
        if not (known and slope == 1):
            d_hidden.mul_(slope)
            d_head = None if d_head is None else d_head.mul_(slope)
        return d_hidden, d_head, *[None] * 4


def chunked(student: Rows, parts: list[Part], values: RowValues, weigh: Callable) -> tuple[torch.Tensor, ...]:
    """_ChunkedLoss where the student learns; else its value without a gradient."""
    dtype = compute_dtype(student.head)
    with torch.autocast(student.hidden.device.type, enabled=False):
        if learns(student):
            return _ChunkedLoss.apply(student.hidden, student.head, dtype, parts, values, weigh)
        found = walk(student.detach().to(dtype), parts, values)
        return weigh(EVERYTHING, *found), *found


def log_sum(z: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    """log sum exp z of each row, (N,), from p = softmax(z), both (N, V): read off at the largest, which cannot underflow."""
    return z.amax(dim=-1) - p.amax(dim=-1).log()


class _KLAndNLL(torch.autograd.Function):
    """dscd_rows of logits z (n, V) of the student and z_t (m, V) of the teacher, which it overwrites: (m,) and (n,).

    Its gradient is known in closed form from the softmaxes, dKL/dz = (q_T - p_T) / T and dCE/dz = q - onehot(x0), p the
    teacher's and q the student's, which spares the logarithms over the vocabulary and their derivatives.
    """

    @staticmethod
    def forward(ctx, z, z_t, labels, kept, temperature, buffers):
        ctx.set_materialize_grads(False)
        ctx.labels, ctx.temperature, ctx.q, ctx.q_t, ctx.p = labels, temperature, None, None, None
        ctx.kept = None if z_t is None or len(z_t) == len(z) else kept.nonzero().squeeze(-1)  # None: all rows
        kl = nll = z.new_zeros(0)
        if labels is not None:
            ctx.q = buffers.softmax("q", z)  # (n, V)
            nll = log_sum(z, ctx.q) - z.gather(-1, labels[:, None]).squeeze(-1)
        if z_t is not None:
            z_t = z_t.div_(temperature)
            scaled = buffers.like("scaled", z_t.shape, z)  # (m, V)
            z = torch.div(z if ctx.kept is None else z[ctx.kept], temperature, out=scaled)
            ctx.q_t, ctx.p = buffers.softmax("q_t", z), buffers.softmax("p", z_t)
            apart = log_sum(z, ctx.q_t) - log_sum(z_t, ctx.p)
            kl = z_t.sub_(z).mul_(ctx.p).sum(dim=-1) + apart
        return kl, nll

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, d_kl, d_nll):
        # In place: the softmaxes are not needed afterwards.
        slope = None
        if ctx.q is not None and d_nll is not None:
            slope = ctx.q.mul_(d_nll[:, None])
            slope.scatter_add_(1, ctx.labels[:, None], -d_nll[:, None])
        if ctx.q_t is not None and d_kl is not None:
            of_kl = ctx.q_t.sub_(ctx.p).mul_(d_kl[:, None] / ctx.temperature)
            if ctx.kept is None:
                slope = of_kl if slope is None else slope.add_(of_kl)
            else:
                slope = of_kl.new_zeros(len(ctx.labels), of_kl.shape[1]) if slope is None else slope
                slope.index_add_(0, ctx.kept, of_kl)
        ctx.q = ctx.q_t = ctx.p = None
        return slope, None, None, None, None, None


def kl_and_nll(target: Rows | None, labels: torch.Tensor | None, kept: torch.Tensor, temperature: float) -> RowValues:
    """dscd_rows of a chunk, equal in value and gradient; the target has no gradient."""
    target, buffers = None if target is None else target.detach().to(compute_dtype(target.head)), Buffers()

    def values(part: Part, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        z_t = None if target is None else buffers.product("z_t", target.hidden[part.kept], target.head)  # (m, V)
        own = None if labels is None else labels[part.rows]
        return _KLAndNLL.apply(logits, z_t, own, kept[part.rows], temperature, buffers)

    return values


def learns(student: Rows) -> bool:
    return torch.is_grad_enabled() and (student.hidden.requires_grad or student.head.requires_grad)


def weighted_rows(
    student: Rows,
    target: Rows | None,
    labels: torch.Tensor | None,
    weights: torch.Tensor,
    *,
    temperature: float = 1.0,
    chunk: int,
) -> torch.Tensor:
    """sum_i w_i KL(target_i || student_i), or with labels and no target sum_i w_i CE(student_i, label_i), in nats.

    student, target: N rows each with its head; labels, weights: (N,); temperature: of both distributions of the KL. The
    target has no gradient. Equal to the pure losses of src/cd4lm/diffusion/losses.py in value and gradient; memory grows
    with `chunk` alone.
    """
    kept = torch.full_like(weights, target is not None, dtype=torch.bool)

    def weigh(part: Part, kl: torch.Tensor, nll: torch.Tensor) -> torch.Tensor:
        value = weights.new_zeros(()) if target is None else (weights[part.kept] * kl).sum()
        return value if labels is None else value + (weights[part.rows] * nll).sum()

    return chunked(student, chunks(kept, chunk), kl_and_nll(target, labels, kept, temperature), weigh)[0]


def chunked_certainty_loss(
    student: Rows, labels: torch.Tensor, masked: torch.Tensor, *, beta: float, temperature: float, chunk: int
) -> CertaintyLoss:
    """certainty_loss, equal in value and gradient, from hidden rows (N, d) at the true positions of masked (B, L).

    labels: (N,). Only `total` carries a gradient. A row's positions share a chunk, since which of them are predicted
    right, and so the weight of each, is known from their logits alone: memory grows with the larger of `chunk` and the
    positions of a row.
    """
    weights, B = mean_weights(masked), len(masked)  # (N,)
    row = masked.nonzero()[:, 0]  # (N,)

    def values(part: Part, logits: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return certainty_rows(logits, labels[part.rows], temperature)

    def weigh(part: Part, nll: torch.Tensor, entropies: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        certain = right_weights(right, row[part.rows], B)
        return (weights[part.rows] * nll).sum() + beta * (certain * entropies).sum()

    parts = whole_rows(masked.sum(dim=1).tolist(), chunk)
    total, nll, entropies, right = chunked(student, parts, values, weigh)
    certainty = (right_weights(right, row, B) * entropies).sum()
    return CertaintyLoss(total, (weights * nll).sum(), certainty)


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
    parts, values = chunks(kept, chunk), kl_and_nll(teacher, labels, kept, temperature)

    def attempt(*factors: float) -> tuple[torch.Tensor, ...]:
        """Their sum with these factors, which carries the gradient, and both means."""
        total, *rows = chunked(
            student, parts, values, lambda _, kl, nll: factors[0] * kl.sum() + factors[1] * nll.sum()
        )
        return total, *(scale * row.sum() for scale, row in zip(scales, rows, strict=True))

    factors = weight * scales[0], (1 - weight) * scales[1]
    linear, *means = attempt(*factors)
    if clamp is not None and learns(student):
        # A part whose mean exceeds the clamp has no gradient; few steps have one, so only they pay for a second pass.
        flows = [bool((mean >= 0) & (mean <= clamp)) for mean in means]
        if not any(flows):
            linear = 0 * linear
        elif not all(flows):
            linear = attempt(*(factor * flow for factor, flow in zip(factors, flows, strict=True)))[0]
    loss = dscd_mix(*means, weight, clamp)
    return loss._replace(total=loss.total + (linear - linear.detach()))  # its value, with the gradient of the sum
