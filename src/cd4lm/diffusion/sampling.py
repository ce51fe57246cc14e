"""From logits to proposed tokens and how certain they are."""

from collections.abc import Iterator

import torch

from cd4lm.diffusion.noise import uniform_at

CHUNK = 16384  # vocabulary entries read at a time: the float32 working set stays within a CPU's cache


def propose(
    logits: torch.Tensor,
    mask_id: int,
    temperature: float | torch.Tensor,
    keys: torch.Tensor,
    places: torch.Tensor | None = None,
    chunk: int = CHUNK,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token proposed at each position and its softmax probability, in one pass over the vocabulary.

    logits (n, r, V) of any float type -> tokens (n, r) int64, probability (n, r) float32. Greedy at temperature 0, else
    argmax of logits + temperature * Gumbel noise (LLaDA, section 2.4) in float64, since float32 noise makes rare tokens
    too rare. temperature: a number, or one above 0 for each row, float64 (n, 1, 1).
    The mask token is never proposed, a committed mask would stay masked, but has its share of the probability.
    keys: (n,) int64, one per row and step. places: (n, r) int64, which of a key's numbers a position uses, default
    0 .. r-1. The working set is one chunk: neither a probability tensor nor a float32 copy of the logits is made, and
    bf16 is widened before the exponential, since thresholds between 0.9 and 1 would fall on four of its values.
    """
    n, r, V = logits.shape
    if places is None:
        places = torch.arange(r, device=logits.device).expand(n, r)
    # The maximum so far, the sum of exp(l - maximum) (Milakov and Gimelshein 2018), the best token and its logit.
    top = logits.new_full((n, r), float("-inf"), dtype=torch.float32)
    total, chosen, tokens = torch.zeros_like(top), top.clone(), torch.zeros_like(places)
    greedy = not isinstance(temperature, torch.Tensor) and temperature == 0
    best = top.clone() if greedy else top.double()
    for start, end in spans(V, mask_id, chunk):
        part = logits[..., start:end].float()  # (n, r, chunk)
        new_top = torch.maximum(top, part.amax(dim=-1))
        # exp(-87) is the smallest normal float32, nothing beside a sum of at least 1; CPUs take long over smaller ones.
        total = total * (top - new_top).exp() + (part - new_top[..., None]).clamp_(min=-87).exp_().sum(dim=-1)
        top = new_top
        if start == mask_id:
            continue
        noisy = part if greedy else part - temperature * gumbel(keys, places, V, start, end)
        score, where = noisy.max(dim=-1)
        better = score > best
        best = torch.where(better, score, best)
        tokens = torch.where(better, where + start, tokens)
        chosen = torch.where(better, part.gather(-1, where[..., None])[..., 0], chosen)
    return tokens, (chosen - top).exp() / total


def spans(V: int, mask_id: int, chunk: int) -> Iterator[tuple[int, int]]:
    """Ranges that cover the vocabulary in order, the mask token in a range of its own."""
    for low, high in ((0, mask_id), (mask_id, mask_id + 1), (mask_id + 1, V)):
        for start in range(low, high, chunk):
            yield start, min(start + chunk, high)


def gumbel(keys: torch.Tensor, places: torch.Tensor, V: int, start: int, end: int) -> torch.Tensor:
    """Negative Gumbel noise log(-log u), float64 (n, r, end - start), of vocabulary entries start .. end-1."""
    counters = places[..., None] * V + torch.arange(start + 1, end + 1, device=keys.device)
    return uniform_at(keys[:, None, None], counters).log_().neg_().log_()


def propose_published(
    logits: torch.Tensor, mask_id: int, temperature: float, keys: torch.Tensor, places: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """What `propose` computes, the way the published decoders do: one argmax over all of it, a probability tensor.

    logits is written to and restored.
    """
    V = logits.shape[-1]
    noisy = logits if temperature == 0 else logits.double() - temperature * gumbel(keys, places, V, 0, V)
    column = noisy[..., mask_id].clone()
    noisy[..., mask_id] = float("-inf")
    tokens = noisy.argmax(dim=-1)
    noisy[..., mask_id] = column
    return tokens, logits.float().softmax(dim=-1).gather(-1, tokens[..., None])[..., 0]


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
