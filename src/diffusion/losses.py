"""Training losses as pure functions."""

from typing import NamedTuple

import torch
import torch.nn.functional as F

IGNORED = -100  # label of a position without loss, as in torch's cross-entropy


def masked_diffusion_loss(logits: torch.Tensor, x0: torch.Tensor, masked: torch.Tensor) -> torch.Tensor:
    """Cross-entropy in nats of the clean tokens where masked, each row divided by its masked count, mean over rows.

    logits: (N, V), the head's rows at the N true positions of `masked`; x0: (B, L); masked: bool (B, L).
    With k of n tokens masked, 1/k is LLaDA's 1/(t n) at t = k/n (LLaDA, equation 3).
    """
    nll = F.cross_entropy(logits.float(), x0[masked], reduction="none")  # (N,)
    count = masked.sum(dim=1, keepdim=True)  # (B, 1)
    weight = (1.0 / count).expand_as(masked)[masked]  # (N,)
    return (weight * nll).sum() / x0.shape[0]


class DSCDLoss(NamedTuple):
    """Scalars in nats: total = weight * consistency + (1 - weight) * reconstruction."""

    total: torch.Tensor
    consistency: torch.Tensor
    reconstruction: torch.Tensor


def dscd_sums(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor | None,
    labels: torch.Tensor,
    kept: torch.Tensor,
    temperature: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """sum KL(softmax(z_teacher/T) || softmax(z_student/T)) over `kept` rows, and sum CE(z_student, x0) over all, in nats.

    student_logits: (N, V); teacher_logits: (M, V), those of the M true rows of kept (N,), None for no KL; labels: (N,).
    Softmax in float32: over 126k words bf16 would lose the small probabilities that make up the KL.
    """
    z_s = student_logits.float()
    nll = F.cross_entropy(z_s, labels, reduction="sum")
    if teacher_logits is None:
        return torch.zeros_like(nll), nll
    log_p = F.log_softmax(teacher_logits.float() / temperature, dim=-1)  # (M, V)
    log_q = F.log_softmax(z_s[kept] / temperature, dim=-1)  # (M, V)
    return F.kl_div(log_q, log_p, reduction="sum", log_target=True), nll


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
    kl, nll = dscd_sums(student_logits[labelled], z_t, labels[labelled], kept, temperature)
    n_kl, n_nll = (kept.sum().clamp(min=1), labelled.sum().clamp(min=1)) if counts is None else counts
    return dscd_mix(temperature**2 * kl / n_kl, nll / n_nll, weight, clamp)
