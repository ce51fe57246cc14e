"""Are confident tokens right? Measured on the answers CAD writes, against the model's own second look.

A problem has many right wordings, so a committed token cannot be called wrong for not being the data's. Here it is
wrong if the model itself, shown the finished answer with that one position masked, proposes another token: it was
committed on a guess that the rest of the answer does not bear out. This is a test of consistency, not of arithmetic; a
model that is sure of a wrong number and stays sure counts as right, which the accuracy tells apart. A block-causal
model does not see later blocks when it looks again.

Counted are the tokens of the answer and the EOS that ends it, as far as a step committed them.
"""

from itertools import islice

import torch

from cd4lm.decoding import ConfidenceAdaptive, DecodeResult
from cd4lm.diffusion.sampling import propose
from evaluation.study.subject import Subject


@torch.inference_mode()
def second_look(subject: Subject, result: DecodeResult, where: torch.Tensor) -> torch.Tensor:
    """What the model proposes at each true position of `where` (B, G) with only that position masked: (B, G), else -1."""
    proposals = torch.full_like(result.tokens, -1)
    states = iter(where.nonzero().tolist())
    device = next(subject.model.parameters()).device
    while batch := list(islice(states, subject.study.batch_size)):
        rows = torch.tensor([row for row, _ in batch])
        places = torch.tensor([place for _, place in batch])
        prompts = [result.prompts[row] for row in rows.tolist()]
        P, G = max(map(len, prompts)), result.tokens.shape[1]
        x = torch.full((len(batch), P + G), subject.mask_id)
        real = torch.ones_like(x)
        for i, prompt in enumerate(prompts):
            x[i, P - len(prompt) : P], real[i, : P - len(prompt)] = prompt, 0
        x[:, P:] = result.tokens[rows]
        at = torch.zeros_like(x, dtype=torch.bool)
        at[torch.arange(len(batch)), P + places] = True
        logits = subject.model(
            input_ids=x.masked_fill(at, subject.mask_id).to(device),
            attention_mask=real.to(device),
            logits_at=at.to(device),
            prompt_length=torch.tensor([len(prompt) for prompt in prompts], device=device),
        ).logits  # (n, V), one position of every row
        no_keys = torch.zeros(len(batch), dtype=torch.long, device=device)
        tokens, _ = propose(logits[:, None], subject.mask_id, 0.0, no_keys)
        proposals[rows, places] = tokens[:, 0].cpu()
    return proposals


def calibration(subject: Subject, threshold: float) -> dict:
    """CAD at one threshold: per problem, tokens committed, those with confidence >= threshold, and how many are wrong."""
    result = subject.decode(subject.study.subset, ConfidenceAdaptive(threshold=threshold))
    counted = torch.arange(result.tokens.shape[1]) <= result.lengths[:, None]  # (B, G), the closing EOS included
    counted &= result.commit_step >= 0
    wrong = counted & (second_look(subject, result, counted) != result.tokens)
    confident = counted & (result.confidence >= threshold)
    counts = {"tokens": counted, "confident": confident, "wrong": wrong, "confident_wrong": confident & wrong}
    return {"threshold": threshold, "problems": {name: flags.sum(dim=1).tolist() for name, flags in counts.items()}}


def measure_calibration(subject: Subject) -> dict:
    return {"thresholds": {f"{tau:g}": calibration(subject, tau) for tau in subject.study.thresholds}}
