"""d3LLM: dParallel's loss on states of the teacher's recorded paths, whose masks and blocks grow (arXiv 2601.07568)."""

import torch

from cd4lm.diffusion.schedules import linear, stage
from cd4lm.objectives import D3LLMConfig
from cd4lm.training.dparallel import DParallelTrainer


class D3LLMTrainer(DParallelTrainer):
    """DParallelTrainer on batches of PathCollator: what is masked of a block is what the path commits last."""

    def __init__(self, *args, d3llm: D3LLMConfig, **kwargs):
        super().__init__(*args, dparallel=d3llm, **kwargs)

    def progress(self) -> tuple[int, float]:
        """Both grow over the run; evaluation uses the last, so that its losses compare over time."""
        total = self.state.max_steps
        step = self.state.global_step if self.model.training else total
        lengths, ratios = self.settings.block_lengths, self.settings.mask_ratio
        return stage(step, total, lengths), linear(step, total, ratios)

    def states(self, inputs: dict) -> tuple[torch.Tensor, ...]:
        return super().states(inputs, inputs["order"])

    def step_values(self) -> dict[str, float]:
        length, ratio = self.progress()
        return {"block_length": length, "mask_ratio": ratio}
