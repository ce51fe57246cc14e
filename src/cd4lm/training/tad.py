"""TAD: the student learns what the teacher's path reveals next, and of the rest what a privileged teacher says.

On a state of the path, cross-entropy on the tokens that the path reveals within delta steps, and on those that stay masked
the KL to the frozen teacher, which sees the same state after a longer prompt: a system message holds the reference answer.
The losses are pure functions in src/cd4lm/diffusion/losses.py (masked_diffusion_loss, tad_distillation); arXiv 2605.09536.
"""

import torch

from cd4lm.diffusion.losses import mean_weights
from cd4lm.diffusion.noise import row_keys
from cd4lm.diffusion.trajectory import TrajectoryPair, path_window
from cd4lm.objectives import TADConfig
from cd4lm.training.chunked_loss import Rows, weighted_rows
from cd4lm.training.setup import forward_both
from cd4lm.training.trainer import StudentTrainer


class TADTrainer(StudentTrainer):
    """StudentTrainer with TAD's losses; batches are those of PrivilegedCollator.

    States depend on (seed, optimizer step, example id) alone; both losses are means over the rows of a step.
    """

    def __init__(self, *args, tad: TADConfig, **kwargs):
        super().__init__(*args, **kwargs)
        self.tad = tad
        self.model_accepts_loss_kwargs = False  # means over rows: the Trainer averages micro-batches of equal size

    def states(self, inputs: dict) -> TrajectoryPair:
        """A state and the later one; a loss of weight 0 has no positions."""
        keys = row_keys(inputs["example_id"], self.args.seed, self.mask_step())
        pair = path_window(inputs["order"], keys, self.tad.delta)
        return pair._replace(
            committed=pair.committed & (self.tad.reconstruction > 0),
            remaining=pair.remaining & (self.tad.distillation > 0),
        )

    def head_rows(self, inputs: dict) -> torch.Tensor:
        pair = self.states(inputs)
        return (pair.committed | pair.remaining).sum(dim=1)

    def losses(self, student: Rows, teacher: Rows | None, x0: torch.Tensor, pair: TrajectoryPair) -> torch.Tensor:
        """Cross-entropy and KL (2,) from the student's rows at U and S in order and the teacher's at S."""
        U, S = pair.committed, pair.remaining
        at, chunk, T = U | S, self.tad.loss_chunk, self.tad.temperature
        revealed, rest = (Rows(student.hidden[part[at]], student.head) for part in (U, S))
        parts = [student.hidden.new_zeros((), dtype=torch.float32)] * 2
        if self.tad.reconstruction > 0:
            parts[0] = weighted_rows(revealed, None, x0[U], mean_weights(U), chunk=chunk)
        if teacher is not None:
            parts[1] = weighted_rows(rest, teacher, None, T**2 * mean_weights(S), temperature=T, chunk=chunk)
        return torch.stack(parts)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        x0, pair, teacher = inputs["input_ids"], self.states(inputs), None
        at = pair.committed | pair.remaining
        if self.tad.distillation > 0:
            masked, S = (self.in_teachers_input(inputs, of) for of in (pair.masked, pair.remaining))
            teacher = inputs["teacher_input_ids"].masked_fill(masked, self.mask_id), S
        parts = forward_both(
            model,
            {name: inputs[name] for name in ("attention_mask", "prompt_length")},
            (x0.masked_fill(pair.masked, self.mask_id), at),
            teacher,
            lambda own, target: self.losses(own, target, x0, pair),
            teacher_context={name: inputs[f"teacher_{name}"] for name in ("attention_mask", "prompt_length")},
            **self.whose(),
        )
        if self.model.training:
            self.record("reconstruction", parts[0])
            self.record("distillation", parts[1])
            self.count("scored", at.sum())
        return self.tad.reconstruction * parts[0] + self.tad.distillation * parts[1]

    def in_teachers_input(self, inputs: dict, at: torch.Tensor) -> torch.Tensor:
        """The same tokens of the answer in the teacher's longer rows: bool (B, L) -> bool (B, L')."""
        answer = inputs["teacher_answer"]
        return torch.zeros_like(answer).masked_scatter(answer, at[inputs["answer"]])

    def teacher_passes(self) -> int:
        return int(self.tad.distillation > 0) + self.backward_passes - 2
