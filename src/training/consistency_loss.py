"""DSCD (CD4LM): the student, on a heavily masked answer, learns what the teacher says on a lightly masked one."""

from typing import NamedTuple

import torch
import torch.nn.functional as F

from src.diffusion.masking import independent_masks, nested_masks
from src.diffusion.noise import row_keys
from src.diffusion.schedules import curriculum_lambda
from src.settings import DSCDConfig
from src.training.trainer import RunTrainer

__all__ = ["DSCDLoss", "DSCDTrainer", "curriculum_lambda", "dscd_loss"]

IGNORED = -100  # label of a position without loss, as in torch's cross-entropy
EVALUATION_STEP = -1  # stands in for the step when masks are drawn for evaluation, so that they never change


class DSCDLoss(NamedTuple):
    """Scalars in nats: total = weight * consistency + (1 - weight) * reconstruction."""

    total: torch.Tensor
    consistency: torch.Tensor
    reconstruction: torch.Tensor


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
    labelled = labels != IGNORED
    z_s = student_logits[labelled].float()  # (N, V)
    nll = F.cross_entropy(z_s, labels[labelled], reduction="sum")
    reconstruction = nll / (labelled.sum() if counts is None else counts[1])
    if teacher_logits is None:
        if weight != 0:
            raise ValueError(f"weight={weight} needs teacher_logits: only weight=0 trains without a teacher")
        consistency = torch.zeros_like(reconstruction)
    else:
        kept = labelled if consistency_at is None else labelled & consistency_at
        log_p = F.log_softmax(teacher_logits[kept].float() / temperature, dim=-1)  # (M, V)
        log_q = F.log_softmax(student_logits[kept].float() / temperature, dim=-1)  # (M, V)
        kl = F.kl_div(log_q, log_p, reduction="sum", log_target=True)
        consistency = temperature**2 * kl / (kept.sum().clamp(min=1) if counts is None else counts[0])
    if clamp is not None:
        consistency, reconstruction = consistency.clamp(0, clamp), reconstruction.clamp(0, clamp)
    return DSCDLoss(weight * consistency + (1 - weight) * reconstruction, consistency, reconstruction)


class DSCDTrainer(RunTrainer):
    """RunTrainer with the DSCD loss; batches are those of AnswerCollator.

    Masks depend on (seed, optimiser step, example id) alone, and both losses are means over the positions of the
    whole optimiser step, so neither accumulation nor the number of processes nor a resume changes a run.
    """

    def __init__(self, *args, teacher: torch.nn.Module, dscd: DSCDConfig, **kwargs):
        super().__init__(*args, **kwargs)
        self.dscd = dscd
        self.mask_id = self.model.config.mask_token_id
        self.teacher = teacher.to(self.args.device).eval().requires_grad_(False)
        # With the published clamp a loss is the mean of its own micro-batch, so the Trainer averages micro-batches.
        self.model_accepts_loss_kwargs = dscd.clamp is None
        self._weight = dscd.initial_lambda

    def masks(self, inputs: dict, step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Bool (B, L) three times: masked for the student, masked for the teacher, where the losses are taken."""
        keys = row_keys(inputs["example_id"], self.args.seed, step)
        answer = inputs["answer"]
        if self.dscd.masks == "independent":
            student, teacher = independent_masks(answer, keys)
            return student, teacher, answer
        student, teacher = nested_masks(
            answer,
            keys,
            student_ratio=self.dscd.student_ratio,
            teacher_share=self.dscd.teacher_share,
            teacher_ratio=self.dscd.teacher_ratio,
            short_guards=self.dscd.short_guards,
        )
        return student, teacher, student

    def consistency_at(self, teacher_masked: torch.Tensor, scored: torch.Tensor) -> torch.Tensor:
        """Where the KL is taken: bool (B, L) within `scored`."""
        return (
            scored & {"student": scored, "teacher": teacher_masked, "visible": ~teacher_masked}[self.dscd.kl_positions]
        )

    def weight(self) -> float:
        """Lambda of this step; evaluation uses the final one, so that its losses compare over time."""
        if not self.model.training:
            return self.dscd.final_lambda
        return curriculum_lambda(
            self.state.global_step,
            self.state.max_steps,
            initial=self.dscd.initial_lambda,
            final=self.dscd.final_lambda,
            warmup_ratio=self.dscd.warmup_ratio,
        )

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        x0, attention_mask = inputs["input_ids"], inputs["attention_mask"]
        step = self.state.global_step if self.model.training else EVALUATION_STEP
        student_masked, teacher_masked, scored = self.masks(inputs, step)
        kl_at = self.consistency_at(teacher_masked, scored)
        weight = self._weight = self.weight()
        corrupted = x0.masked_fill(student_masked, self.mask_id)
        student = model(input_ids=corrupted, attention_mask=attention_mask, logits_at=scored).logits  # (N, V)
        teacher = None
        if weight > 0:
            with torch.no_grad():
                corrupted = x0.masked_fill(teacher_masked, self.mask_id)
                teacher = self.teacher(input_ids=corrupted, attention_mask=attention_mask, logits_at=scored).logits
        loss = dscd_loss(
            student,
            teacher,
            x0[scored],
            temperature=self.dscd.temperature,
            weight=weight,
            clamp=self.dscd.clamp,
            consistency_at=kl_at[scored],
            counts=None if num_items_in_batch is None else tuple(num_items_in_batch),
        )
        if self.model.training:
            self.record("consistency", loss.consistency)
            self.record("reconstruction", loss.reconstruction)
            self.count("scored", scored.sum())
        return loss.total

    def step_values(self) -> dict[str, float]:
        return {"lambda": self._weight}

    def teacher_passes(self) -> int:
        return int(self._weight > 0)

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """The micro-batches of one optimiser step, with the counts of positions that both losses are divided by."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self.dscd.clamp is not None or not batches:
            return batches, None
        counts = torch.zeros(2, device=device)
        for batch in batches:
            _, teacher_masked, scored = self.masks(batch, self.state.global_step)
            counts += torch.stack((self.consistency_at(teacher_masked, scored).sum(), scored.sum())).to(device)
        # Gradients are averaged over processes; dividing by the mean count makes that the mean over all positions.
        self._divisors = self.accelerator.reduce(counts, "mean").clamp(min=1)
        return batches, self._divisors

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        with torch.no_grad():
            return self.compute_loss(model, self._prepare_inputs(inputs)), None, None
