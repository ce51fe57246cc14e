"""CDLM: a student under a block-causal mask learns from the teacher's recorded decoding paths (MLSys 2026).

Three losses, pure functions in src/cd4lm/diffusion/losses.py: on a state y of the path, the teacher's distribution of
what it commits next (distillation) and the student's own later prediction of what stays masked (consistency); on the
data's answer, masked denoising. The attention mask is the model's (`block_causal` in an experiment); without it the
same losses train a bidirectional student.
"""

import torch

from cd4lm.diffusion.losses import mean_weights
from cd4lm.diffusion.masking import uniform_count_masks
from cd4lm.diffusion.noise import row_keys
from cd4lm.diffusion.trajectory import TrajectoryPair, trajectory_pair
from cd4lm.settings import CDLMConfig
from cd4lm.training.chunked_loss import Rows, weighted_rows
from cd4lm.training.setup import without_dropout
from cd4lm.training.trainer import StudentTrainer

PARTS = ("distillation", "consistency", "denoising")


class CDLMTrainer(StudentTrainer):
    """StudentTrainer with CDLM's losses; batches are those of TrajectoryCollator.

    States and masks depend on (seed, optimizer step, example id) alone; every loss is a mean over the rows of a step.
    teacher_head: weight (V, d) that turns stored hidden states into logits; None where it is the student's own, frozen.
    block_length, grid: of the recorded paths.
    """

    def __init__(
        self, *args, cdlm: CDLMConfig, teacher_head: torch.Tensor | None, block_length: int, grid: str, **kwargs
    ):
        super().__init__(*args, **kwargs)
        self.cdlm, self.block_length, self.grid = cdlm, block_length, grid
        self.teacher_head = None if teacher_head is None else teacher_head.to(self.args.device)
        self.model_accepts_loss_kwargs = False  # means over rows: the Trainer averages micro-batches of equal size
        self.on_path = cdlm.distillation > 0 or cdlm.consistency > 0

    def states(self, inputs: dict) -> tuple[TrajectoryPair, torch.Tensor]:
        """The pair of states on the path, and what is masked of the data's answer, bool (B, L)."""
        keys = row_keys(inputs["example_id"], self.args.seed, self.mask_step())
        offset = inputs["prompt_length"] % self.block_length if self.grid == "absolute" else 0
        pair = trajectory_pair(inputs["order"], keys, self.block_length, self.cdlm.consistency_reach, offset)
        # A loss of weight 0 is not computed.
        pair = pair._replace(
            committed=pair.committed & (self.cdlm.distillation > 0),
            remaining=pair.remaining & (self.cdlm.consistency > 0),
        )
        return pair, uniform_count_masks(inputs["truth_answer"], row_keys(keys, 1))

    def head_rows(self, inputs: dict) -> torch.Tensor:
        pair, noise = self.states(inputs)
        return (pair.committed | pair.remaining).sum(dim=1) + noise.sum(dim=1)

    def later_rows(self, model, inputs: dict, pair: TrajectoryPair) -> torch.Tensor | None:
        """Hidden states (|S|, d) of the student on y*, without a gradient: the target of the consistency loss."""
        if self.cdlm.consistency == 0:
            return None
        x = inputs["input_ids"].masked_fill(pair.later_masked, self.mask_id)
        context = {name: inputs[name] for name in ("attention_mask", "prompt_length")}
        with torch.no_grad(), without_dropout(model):
            return model(input_ids=x, **context, logits_at=pair.remaining, reduce=lambda h, _: h).reduced

    def losses(self, rows: Rows, later: torch.Tensor | None, inputs: dict, pair: TrajectoryPair, noise) -> torch.Tensor:
        """The three losses (3,) from the student's hidden rows: those of y at U and S in order, then the data's."""
        at, chunk = pair.committed | pair.remaining, {"chunk": self.cdlm.loss_chunk}
        path, data = (Rows(h, rows.head) for h in rows.hidden.split((int(at.sum()), len(rows.hidden) - int(at.sum()))))
        parts = [rows.hidden.new_zeros((), dtype=torch.float32)] * 3
        if self.cdlm.distillation > 0:
            U = pair.committed
            stored = inputs["hidden"][U[inputs["answer"]].view(len(U), -1)]  # (|U|, d)
            head = rows.head if self.teacher_head is None else self.teacher_head
            own = Rows(path.hidden[U[at]], rows.head)
            parts[0] = weighted_rows(own, Rows(stored.to(head.dtype), head), None, mean_weights(U), **chunk)
        if self.cdlm.consistency > 0:
            own = Rows(path.hidden[pair.remaining[at]], rows.head)
            parts[1] = weighted_rows(own, Rows(later, rows.head), None, mean_weights(pair.remaining), **chunk)
        if self.cdlm.denoising > 0:
            parts[2] = weighted_rows(data, None, inputs["truth_input_ids"][noise], mean_weights(noise), **chunk)
        return torch.stack(parts)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        pair, noise = self.states(inputs)
        later = self.later_rows(model, inputs, pair)
        halves = []  # (names' prefix, what is masked, where the losses are)
        if self.on_path:
            halves.append(("", pair.masked, pair.committed | pair.remaining))
        if self.cdlm.denoising > 0:
            halves.append(("truth_", noise, noise))
        x = torch.cat([inputs[f"{of}input_ids"].masked_fill(masked, self.mask_id) for of, masked, _ in halves])
        at = torch.cat([where for _, _, where in halves])
        parts = model(
            input_ids=x,
            attention_mask=torch.cat([inputs[f"{of}attention_mask"] for of, _, _ in halves]),
            prompt_length=inputs["prompt_length"].repeat(len(halves)),
            logits_at=at,
            reduce=lambda h, head: self.losses(Rows(h, head), later, inputs, pair, noise),
        ).reduced
        if self.model.training:
            for name, part in zip(PARTS, parts, strict=True):
                self.record(name, part)
            self.count("scored", at.sum())
        return sum(vars(self.cdlm)[name] * part for name, part in zip(PARTS, parts, strict=True))

    def teacher_passes(self) -> int:
        # In forwards of one batch: path and data cost three each, and one of the two is counted as the student's own.
        halves = int(self.on_path) + int(self.cdlm.denoising > 0)
        return 3 * (halves - 1) + int(self.cdlm.consistency > 0)
