"""Scoring given answers with the model, beside the decode loop that writes new ones."""

from collections.abc import Iterator, Sequence
from itertools import islice

import torch

from cd4lm.diffusion.likelihood import likelihood_masks, log_likelihood_estimate
from cd4lm.diffusion.noise import row_keys


def masked_rows(
    pairs: Sequence[tuple[torch.Tensor, torch.Tensor]], masks: Sequence[torch.Tensor], mask_id: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Every state to run: the row (L,) with its masks, the answer (n,), and which of it is masked (n,)."""
    for (prompt, answer), states in zip(pairs, masks, strict=True):
        for masked in states:
            yield torch.cat((prompt, answer.masked_fill(masked, mask_id))), answer, masked


@torch.inference_mode()
def answer_log_p(model, rows: Sequence[tuple[torch.Tensor, torch.Tensor, torch.Tensor]], mask_id: int) -> list:
    """Log-probability, float64, of each row's true answer tokens where masked, 0 elsewhere; one (n,) tensor per row."""
    L, device = max(len(x) for x, _, _ in rows), next(model.parameters()).device
    x = torch.full((len(rows), L), mask_id)
    real, where = torch.zeros(len(rows), L, dtype=torch.long), torch.zeros(len(rows), L, dtype=torch.bool)
    for i, (row, _, masked) in enumerate(rows):
        x[i, L - len(row) :] = row
        real[i, L - len(row) :] = 1
        where[i, L - len(masked) :] = masked
    padded = not bool(real.all())
    logits = model(
        input_ids=x.to(device),
        attention_mask=real.to(device) if padded else None,
        logits_at=where.to(device),
        prompt_length=torch.tensor([len(row) - len(masked) for row, _, masked in rows], device=device),
    ).logits  # (masked positions of all rows, V)
    wanted = torch.cat([answer[masked] for _, answer, masked in rows]).to(device)
    wide = logits.float()
    chosen = (wide.gather(-1, wanted[:, None])[:, 0] - wide.logsumexp(dim=-1)).double().cpu()
    counts = [int(masked.sum()) for _, _, masked in rows]
    return [
        torch.zeros(len(masked), dtype=torch.float64).masked_scatter(masked, part)
        for (_, _, masked), part in zip(rows, chosen.split(counts), strict=True)
    ]


def log_likelihoods(
    model,
    pairs: Sequence[tuple[torch.Tensor, torch.Tensor]],
    *,
    mask_id: int,
    samples: int,
    batch_size: int,
    seed: int,
    row_ids: Sequence[int],
) -> Iterator[float]:
    """Monte Carlo estimate of log p(answer | prompt) in nats for each pair of 1-D LongTensors, in order.

    samples: states per answer (one state says all about an answer of one token); batch_size: states per forward.
    row_ids: what a pair's masks are drawn from besides the seed, so that batches change nothing.
    Raises ValueError for an empty prompt or answer, or a pair longer than the model takes.
    """
    if samples < 1 or batch_size < 1:
        raise ValueError(f"samples={samples} and batch_size={batch_size} must be at least 1")
    for i, (prompt, answer) in enumerate(pairs):
        total, room = len(prompt) + len(answer), model.config.max_sequence_length
        if not len(prompt) or not len(answer) or total > room:
            raise ValueError(
                f"pair {i} has {len(prompt)} + {len(answer)} tokens: neither may be 0, the sum at most {room}"
            )
    masks = [
        likelihood_masks(len(answer), samples if len(answer) > 1 else 1, row_keys(torch.tensor([row]), seed))
        for (_, answer), row in zip(pairs, row_ids, strict=True)
    ]
    rows = masked_rows(pairs, masks, mask_id)
    batches = iter(lambda: list(islice(rows, batch_size)), [])
    log_p = (part for batch in batches for part in answer_log_p(model, batch, mask_id))
    for masked in masks:
        yield log_likelihood_estimate(torch.stack(list(islice(log_p, len(masked)))), masked).item()
