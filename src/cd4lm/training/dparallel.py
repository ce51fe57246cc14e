"""dParallel: cross-entropy on one block under two masks that complement each other, and certainty where it is right.

The loss is a pure function in src/cd4lm/diffusion/losses.py (certainty_loss), the states are those of complementary_masks;
arXiv 2509.26488. A student is trained on its own or the teacher's answers; no teacher runs beside it.
"""

import torch

from cd4lm.diffusion.masking import complementary_masks
from cd4lm.diffusion.noise import row_keys
from cd4lm.objectives import D3LLMConfig, DParallelConfig
from cd4lm.training.chunked_loss import Rows, chunked_certainty_loss
from cd4lm.training.trainer import StudentTrainer


class DParallelTrainer(StudentTrainer):
    """StudentTrainer with dParallel's loss; batches are those of AnswerCollator.

    Masks depend on (seed, optimizer step, example id) alone; every part is a mean over the rows of a step.
    """

    def __init__(self, *args, dparallel: DParallelConfig | D3LLMConfig, **kwargs):
        super().__init__(*args, **kwargs)
        self.settings = dparallel
        self.model_accepts_loss_kwargs = False  # means over rows: the Trainer averages micro-batches of equal size

    def progress(self) -> tuple[int, float]:
        """Block length and masked share of the block at this step."""
        return self.settings.block_length, 0.5

    def states(self, inputs: dict, order: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
        """What the two states mask of a block, and what both mask after it, bool (B, L) each."""
        keys = row_keys(inputs["example_id"], self.args.seed, self.mask_step())
        length, ratio = self.progress()
        how = {"block_length": length, "ratio": ratio, "offset": self.block_offset(inputs, length)}
        return complementary_masks(inputs["answer"], keys, order=order, **how)

    def head_rows(self, inputs: dict) -> torch.Tensor:
        first, second, _ = self.states(inputs)
        return (first | second).sum(dim=1)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        *halves, later = self.states(inputs)
        at = torch.cat(halves)  # (2B, L), the first state's rows and then the second's
        x0 = inputs["input_ids"].repeat(2, 1)
        settings = self.settings

        def loss(h: torch.Tensor, head: torch.Tensor) -> torch.Tensor:
            how = {"beta": settings.certainty, "temperature": settings.temperature, "chunk": settings.loss_chunk}
            return torch.stack(chunked_certainty_loss(Rows(h, head), x0[at], at, **how))  # (3,)

        parts = (
            2
            * model(  # the mean over 2B rows, twice: the loss is the sum of both states'
                input_ids=x0.masked_fill(at | later.repeat(2, 1), self.mask_id),
                attention_mask=inputs["attention_mask"].repeat(2, 1),
                prompt_length=inputs["prompt_length"].repeat(2),
                logits_at=at,
                reduce=loss,
            ).reduced
        )
        if self.model.training:
            self.record("reconstruction", parts[1])
            self.record("certainty", parts[2])
            self.count("scored", at.sum())
        return parts[0]

    def teacher_passes(self) -> int:
        # Both states' forwards and gradients, less the three passes that are counted as the student's own.
        return 2 * (1 + self.backward_passes) - 3
