"""What is recomputed at each step. A cache stores and decides nothing else: the engine asks it for logits."""

import torch


class NoCache:
    """Recompute the whole canvas at every step: exact for every model."""

    def logits(self, model, x: torch.Tensor, attention_mask: torch.Tensor | None, at: torch.Tensor) -> torch.Tensor:
        """Logits (n, b, V) at positions `at` (n, b) of the canvas x (n, L)."""
        return model(input_ids=x, attention_mask=attention_mask, logits_at=at).logits


CACHES = {"none": NoCache}
