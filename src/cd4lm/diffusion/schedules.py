"""Quantities that change over a training run."""

import math


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
