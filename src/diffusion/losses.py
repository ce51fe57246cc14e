"""The masked diffusion loss as a pure function."""

import torch
import torch.nn.functional as F


def masked_diffusion_loss(logits: torch.Tensor, x0: torch.Tensor, masked: torch.Tensor) -> torch.Tensor:
    """Cross-entropy in nats of the clean tokens where masked, each row divided by its masked count, mean over rows.

    logits: (N, V), the head's rows at the N true positions of `masked`; x0: (B, L); masked: bool (B, L).
    With k of n tokens masked, 1/k is LLaDA's 1/(t n) at t = k/n (LLaDA, equation 3).
    """
    nll = F.cross_entropy(logits.float(), x0[masked], reduction="none")  # (N,)
    count = masked.sum(dim=1, keepdim=True)  # (B, 1)
    weight = (1.0 / count).expand_as(masked)[masked]  # (N,)
    return (weight * nll).sum() / x0.shape[0]
