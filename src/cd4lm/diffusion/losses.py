"""Training losses as pure functions."""

from typing import NamedTuple

import torch
import torch.nn.functional as F

IGNORED = -100  # label of a position without loss, as in torch's cross-entropy


def masked_diffusion_loss(logits: torch.Tensor, x0: torch.Tensor, masked: torch.Tensor) -> torch.Tensor:
    """Cross-entropy in nats of the clean tokens where masked, each row divided by its masked count, mean over rows.

    logits: (N, V), the head's rows at the N true positions of `masked`; x0: (B, L); masked: bool (B, L).
    With k of n tokens masked, 1/k is LLaDA's 1/(t n) at t = k/n (LLaDA, equation 3; CDLM, masked denoising).
    """
    nll = F.cross_entropy(logits.float(), x0[masked], reduction="none")  # (N,)
    return (mean_weights(masked) * nll).sum()


class DSCDLoss(NamedTuple):
    """Scalars in nats: total = weight * consistency + (1 - weight) * reconstruction."""

    total: torch.Tensor
    consistency: torch.Tensor
    reconstruction: torch.Tensor


def divergence(target_logits: torch.Tensor, logits: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """KL(softmax(target/T) || softmax(logits/T)) of each row in nats: (N, V), (N, V) -> (N,) float32.

    Softmax in float32: over 126k words bf16 would lose the small probabilities that make up the KL.
    """
    log_p = F.log_softmax(target_logits.float() / temperature, dim=-1)  # (N, V)
    log_q = F.log_softmax(logits.float() / temperature, dim=-1)  # (N, V)
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=-1)


def dscd_rows(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor | None,
    labels: torch.Tensor | None,
    kept: torch.Tensor,
    temperature: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """KL(softmax(z_teacher/T) || softmax(z_student/T)) of the M `kept` rows, and CE(z_student, x0) of all, in nats.

    student_logits: (N, V); teacher_logits: (M, V), those of the true rows of kept (N,), None for a KL of 0; labels: (N,),
    None for a CE of 0. Returns (M,) and (N,), float32.
    """
    z_s = student_logits.float()
    nll = z_s.new_zeros(len(z_s)) if labels is None else F.cross_entropy(z_s, labels, reduction="none")
    if teacher_logits is None:
        return z_s.new_zeros(int(kept.sum())), nll
    return divergence(teacher_logits, z_s[kept], temperature), nll


def dscd_mix(consistency: torch.Tensor, reconstruction: torch.Tensor, weight: float, clamp: float | None) -> DSCDLoss:
    """The two means, each clamped to [0, clamp] if asked, and their mixture."""
    if clamp is not None:
        consistency, reconstruction = consistency.clamp(0, clamp), reconstruction.clamp(0, clamp)
    return DSCDLoss(weight * consistency + (1 - weight) * reconstruction, consistency, reconstruction)


def dscd_loss(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor | None,
    labels: torch.Tensor,
    *,
    temperature: float = 2.0,
    weight: float,
    clamp: float | None = None,
    consistency_at: torch.Tensor | None = None,
    counts: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> DSCDLoss:
    """L = weight T^2 KL(softmax(z_teacher/T) || softmax(z_student/T)) + (1 - weight) CE(z_student, x0) (CD4LM, DSCD).

    student_logits, teacher_logits: (..., V); labels: (...) clean tokens, -100 = no loss there. Softmax in float32.
    weight: lambda in [0, 1]; at 0 teacher_logits may be None. clamp: upper bound of each part (published: 5.0).
    consistency_at: bool (...), keep the KL there only (default: wherever there is a label).
    counts: positions to divide the two sums by, for batches that are a part of a larger one (default: this batch's).
    """
    if teacher_logits is None and weight != 0:
        raise ValueError(f"weight={weight} needs teacher_logits: only weight=0 trains without a teacher")
    labelled = labels != IGNORED
    at = labelled if consistency_at is None else labelled & consistency_at
    kept = at[labelled]  # (N,)
    z_t = None if teacher_logits is None else teacher_logits[at]
    kl, nll = dscd_rows(student_logits[labelled], z_t, labels[labelled], kept, temperature)
    n_kl, n_nll = (kept.sum().clamp(min=1), labelled.sum().clamp(min=1)) if counts is None else counts
    return dscd_mix(temperature**2 * kl.sum() / n_kl, nll.sum() / n_nll, weight, clamp)


def mean_weights(at: torch.Tensor) -> torch.Tensor:
    """Weight of each true position of at (B, L), in order, so that a weighted sum is the mean over rows of row means.

    A row without a true position counts as one with a mean of 0. Returns (N,) float32.
    """
    count = at.sum(dim=1, keepdim=True).clamp(min=1)  # (B, 1)
    return (1.0 / (count * len(at))).expand_as(at)[at]


def cdlm_distillation(student_logits: torch.Tensor, teacher_logits: torch.Tensor, committed: torch.Tensor):
    """1/|U| sum_U KL(p_teacher || q(.|y)), mean over rows (CDLM, distillation).

    U are the true positions of committed (B, L): masked in the state y, committed by the teacher until the state y*.
    student_logits, teacher_logits: (N, V) at these positions, the teacher's from when it committed each.
    """
    return (mean_weights(committed) * divergence(teacher_logits, student_logits)).sum()


def cdlm_consistency(student_logits: torch.Tensor, later_logits: torch.Tensor, remaining: torch.Tensor):
    """1/|S| sum_S KL(stopgrad q(.|y*) || q(.|y)), mean over rows (CDLM, consistency).

    S are the true positions of remaining (B, L): masked in y* still. student_logits, later_logits: (N, V), of y and y*.
    """
    return (mean_weights(remaining) * divergence(later_logits.detach(), student_logits)).sum()


class CertaintyLoss(NamedTuple):
    """Scalars in nats: total = reconstruction + beta * certainty."""

    total: torch.Tensor
    reconstruction: torch.Tensor
    certainty: torch.Tensor


def entropy(logits: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Entropy of softmax(z / T) of each row in nats: (N, V) -> (N,) float32."""
    log_p = F.log_softmax(logits.float() / temperature, dim=-1)  # (N, V)
    return -(log_p.exp() * log_p).sum(dim=-1)


def certainty_rows(logits: torch.Tensor, labels: torch.Tensor, temperature: float) -> tuple[torch.Tensor, ...]:
    """CE(z, label), the entropy of softmax(z / T), and whether argmax z is the label, of each row: (N, V), (N,)."""
    nll = F.cross_entropy(logits.float(), labels, reduction="none")  # (N,)
    return nll, entropy(logits, temperature), logits.detach().argmax(dim=-1) == labels


def right_weights(right: torch.Tensor, row: torch.Tensor, rows: int) -> torch.Tensor:
    """As mean_weights over the true positions of right (N,), of which each lies in row (N,) of so many rows. (N,)."""
    count = torch.zeros(rows, device=right.device).index_add_(0, row, right.float())  # (B,)
    return right / (count.clamp(min=1)[row] * rows)


def certainty_loss(
    logits: torch.Tensor, x0: torch.Tensor, masked: torch.Tensor, *, beta: float, temperature: float
) -> CertaintyLoss:
    """L = 1/|M| sum_M CE(z, x0) + beta 1/|R| sum_R H(softmax(z/T)), mean over rows (dParallel, certainty forcing).

    M are the true positions of masked (B, L), R those of them whose argmax is x0 already: what is right becomes sharp.
    logits: (N, V), at M. The method's loss is this of a state plus this of its complement. The published program takes
    both means over a micro-batch; those over a row are the same however a step is divided into micro-batches.
    """
    nll, entropies, right = certainty_rows(logits, x0[masked], temperature)
    reconstruction = (mean_weights(masked) * nll).sum()
    certainty = (right_weights(right, masked.nonzero()[:, 0], len(masked)) * entropies).sum()
    return CertaintyLoss(reconstruction + beta * certainty, reconstruction, certainty)


def tad_distillation(
    student_logits: torch.Tensor, teacher_logits: torch.Tensor, remaining: torch.Tensor, temperature: float = 1.0
) -> torch.Tensor:
    """T^2/|S| sum_S KL(softmax(z_teacher/T) || softmax(z_student/T)), mean over rows (TAD, privileged distillation).

    S are the true positions of remaining (B, L), masked in the later state still; (N, V) each, the teacher's from an
    input that holds the reference answer. TAD's other part is masked_diffusion_loss on what the later state reveals.
    """
    return temperature**2 * (mean_weights(remaining) * divergence(teacher_logits, student_logits, temperature)).sum()
