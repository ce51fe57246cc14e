"""How likely given continuations are, for lm-eval's multiple-choice and perplexity tasks."""

from collections import defaultdict
from collections.abc import Sequence

import torch
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from cd4lm.decoding import DecodeConfig, FixedSteps, decode_stream
from cd4lm.decoding.likelihood import log_likelihoods
from cd4lm.io import fingerprint

Pair = tuple[torch.Tensor, torch.Tensor]  # context and continuation


def disjoint_windows(tokens: list[int], prefix: int, room: int) -> list[tuple[list[int], list[int]]]:
    """A whole text as contexts and continuations that fit into `room` tokens and cover every token once."""
    windows = get_rolling_token_windows(token_list=tokens, prefix_token=prefix, max_seq_len=room - 1, context_len=1)
    return [make_disjoint_window(window) for window in windows]


def estimates(model, pairs: Sequence[Pair], samples: int, batch_size: int, seed: int) -> list[float]:
    """Monte Carlo log-likelihood of every pair, in nats."""
    # Masks are drawn from the text itself, so that they depend on neither the batch nor the order of the requests.
    ids = [int(fingerprint(a.tolist(), b.tolist())[:15], 16) for a, b in pairs]
    how = {"mask_id": model.config.mask_token_id, "samples": samples, "batch_size": batch_size, "seed": seed}
    return list(log_likelihoods(model, pairs, row_ids=ids, **how))


def greedy(model, pairs: Sequence[Pair], batch_size: int) -> list[bool]:
    """Whether decoding greedily, one token per step, gives exactly the continuation of each pair."""
    same = [False] * len(pairs)
    by_length = defaultdict(list)
    for i, (_, continuation) in enumerate(pairs):
        by_length[len(continuation)].append(i)
    for n, indices in by_length.items():
        config = DecodeConfig(mask_id=model.config.mask_token_id, gen_length=n, block_length=n, stop_at_eos=False)
        prompts = [pairs[i][0] for i in indices]
        for part in decode_stream(model, prompts, FixedSteps(steps=n), config, batch_size=batch_size):
            for row, j in enumerate(part.index.tolist()):
                same[indices[j]] = torch.equal(part.tokens[row], pairs[indices[j]][1])
    return same
