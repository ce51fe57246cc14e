"""Quantities that change over a training run."""

import math
from collections.abc import Sequence


def curriculum_lambda(
    step: int, total_steps: int, *, initial: float = 0.9, final: float = 0.5, warmup_ratio: float = 0.1
) -> float:
    """Weight of the consistency loss: initial while warming up, then half a cosine to final (CD4LM, DSCD curriculum).

    step: optimizer steps done, of total_steps; the warm-up lasts int(warmup_ratio * total_steps) of them.
    """
    warmup = int(warmup_ratio * total_steps)
    if step < warmup:
        return initial
    progress = min((step - warmup) / max(total_steps - warmup, 1), 1.0)
    return final + (initial - final) * 0.5 * (1 + math.cos(math.pi * progress))


def linear(step: int, total_steps: int, bounds: tuple[float, float]) -> float:
    """From the first bound at step 0 straight to the second at total_steps (d3LLM, share of masks)."""
    low, high = bounds
    return low + (high - low) * min(step / max(total_steps, 1), 1.0)


def stage(step: int, total_steps: int, values: Sequence[int]) -> int:
    """The run in as many equal stages as there are values, each with its own (d3LLM, block length by epoch)."""
    return values[min(step * len(values) // max(total_steps, 1), len(values) - 1)]
