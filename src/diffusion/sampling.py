"""From logits to proposed tokens and how certain they are."""

import torch

from src.diffusion.noise import uniform


def propose(logits: torch.Tensor, mask_id: int, temperature: float, keys: torch.Tensor) -> torch.Tensor:
    """The token proposed at each position: logits (n, b, V) -> (n, b).

    Greedy at temperature 0, else argmax of logits + temperature * Gumbel noise (LLaDA, section 2.4) in float64, since
    float32 noise makes rare tokens too rare. The mask token is never proposed: a committed mask would stay masked.
    keys: (n,) int64, one per row and step.
    """
    allowed = torch.arange(logits.shape[-1], device=logits.device) != mask_id  # (V,)
    if temperature > 0:
        n, b, V = logits.shape
        noise = uniform(keys, b * V).view(n, b, V)
        logits = logits.double() - temperature * torch.log(-torch.log(noise))
    return logits.masked_fill(~allowed, float("-inf")).argmax(dim=-1)


def confidence(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Softmax probability, float32, of tokens (n, b) under logits (n, b, V), without building the distribution."""
    wide = logits.float()  # bf16 has 8 bits: thresholds between 0.9 and 1 would fall on four values
    chosen = wide.gather(-1, tokens[..., None])[..., 0]
    return torch.exp(chosen - wide.logsumexp(dim=-1))


def negative_entropy(logits: torch.Tensor) -> torch.Tensor:
    """Sum of p log p in nats, float32: logits (n, b, V) -> (n, b), 0 where the model is certain."""
    log_p = logits.float().log_softmax(dim=-1)
    return (log_p.exp() * log_p).sum(dim=-1)


def guide(conditional: torch.Tensor, unconditional: torch.Tensor, scale: float) -> torch.Tensor:
    """Classifier-free guidance: u + (scale + 1)(c - u) on logits (LLaDA, appendix; Nie et al. 2024)."""
    return unconditional + (scale + 1) * (conditional - unconditional)


def top_k(score: torch.Tensor, candidates: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """The k highest-scoring candidates of each row: (n, b), bool (n, b), (n,) -> bool (n, b); ties go left."""
    ordered = score.masked_fill(~candidates, float("-inf")).argsort(dim=1, descending=True, stable=True)
    return (ordered.argsort(dim=1) < k[:, None]) & candidates
