"""DSCD (CD4LM): the student, on a heavily masked answer, learns what the teacher says on a lightly masked one."""

import torch

from cd4lm.diffusion.losses import DSCDLoss, dscd_loss
from cd4lm.diffusion.masking import block_nested_masks, independent_masks, nested_masks
from cd4lm.diffusion.noise import row_keys
from cd4lm.diffusion.schedules import curriculum_lambda
from cd4lm.settings import DSCDConfig
from cd4lm.training.chunked_loss import Rows, chunked_dscd_loss
from cd4lm.training.setup import forward_both
from cd4lm.training.trainer import StudentTrainer

__all__ = ["DSCDLoss", "DSCDTrainer", "curriculum_lambda", "dscd_loss"]


class DSCDTrainer(StudentTrainer):
    """StudentTrainer with the DSCD loss; batches are those of AnswerCollator.

    Masks depend on (seed, optimizer step, example id) alone, and both losses are means over the positions of the
    whole optimizer step, so neither accumulation nor the number of processes nor a resume changes a run.
    """

    def __init__(self, *args, dscd: DSCDConfig, **kwargs):
        super().__init__(*args, **kwargs)
        self.dscd = dscd
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
        if self.dscd.masks == "block":
            return block_nested_masks(
                answer, keys, block_length=self.dscd.block_length, teacher_share=self.dscd.teacher_share
            )
        student, teacher = nested_masks(
            answer,
            keys,
            student_ratio=self.dscd.student_ratio,
            teacher_share=self.dscd.teacher_share,
            teacher_ratio=self.dscd.teacher_ratio,
            short_guards=self.dscd.short_guards,
        )
        return student, teacher, student

    def head_rows(self, inputs: dict) -> torch.Tensor:
        return self.masks(inputs, self.state.global_step)[2].sum(dim=1)

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
        x0 = inputs["input_ids"]
        student_masked, teacher_masked, scored = self.masks(inputs, self.mask_step())
        kl_at = self.consistency_at(teacher_masked, scored)
        weight = self._weight = self.weight()

        def loss(student: Rows, teacher: Rows | None) -> torch.Tensor:
            parts = chunked_dscd_loss(
                student,
                teacher,
                x0[scored],
                temperature=self.dscd.temperature,
                weight=weight,
                clamp=self.dscd.clamp,
                consistency_at=kl_at[scored],
                counts=None if num_items_in_batch is None else tuple(num_items_in_batch),
                chunk=self.dscd.loss_chunk,
            )
            return torch.stack(parts)  # (3,): a launcher's hooks know tensors, not our tuple

        context = {name: inputs[name] for name in ("attention_mask", "prompt_length")}
        corrupted = x0.masked_fill(student_masked, self.mask_id), scored
        teacher = (x0.masked_fill(teacher_masked, self.mask_id), kl_at) if weight > 0 else None
        parts = forward_both(model, context, corrupted, teacher, loss, **self.whose())
        if self.model.training:
            self.record("consistency", parts[1])
            self.record("reconstruction", parts[2])
            self.count("scored", scored.sum())
        return parts[0]

    def step_values(self) -> dict[str, float]:
        return {"lambda": self._weight}

    def teacher_passes(self) -> int:
        # With adapters there is no gradient of the base's matrices, a third of the student's work.
        return int(self._weight > 0) - int(self.teacher is None)

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """The micro-batches of one optimizer step, with the counts of positions that both losses are divided by."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self.dscd.clamp is not None or not batches:
            return batches, None
        counts = torch.zeros(2, device=device)
        for batch in batches:
            _, teacher_masked, scored = self.masks(batch, self.state.global_step)
            counts += torch.stack((self.consistency_at(teacher_masked, scored).sum(), scored.sum())).to(device)
        # Gradients are averaged over processes; dividing by the mean count makes that the mean over all positions.
        return batches, self.accelerator.reduce(counts, "mean").clamp(min=1)
