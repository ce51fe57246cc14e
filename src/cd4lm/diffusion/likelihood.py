"""The Monte Carlo estimate of log p(answer | prompt) of a masked diffusion model (LLaDA, section 2.4, equation 6)."""

import torch

from cd4lm.diffusion.masking import random_ranks
from cd4lm.diffusion.noise import row_keys, uniform


def mask_counts(n: int, samples: int, offset: torch.Tensor) -> torch.Tensor:
    """How many of n tokens to mask in each sample, (samples,), for an offset in [0, 1), shape (1,) or ().

    Over a uniform offset each of 1..n has the same share of the samples: (sample + offset) / samples cuts [0, 1) into
    equal parts with one uniform point in each, and floor cuts it into n equal parts. LLaDA's own program rounds instead,
    half to even, which with n/b = 1/2 (n tokens, batches of b) gives even counts three times the weight of odd ones.
    """
    sample = torch.arange(samples, device=offset.device)
    return (n * (sample + offset) / samples).floor() + 1


def likelihood_masks(n: int, samples: int, key: torch.Tensor) -> torch.Tensor:
    """Which of an answer's n tokens to mask in each sample: bool (samples, n), at least one in every row.

    The number masked is uniform over 1..n, spread evenly over the samples, which keeps the mean and lowers the variance;
    which ones is uniform. key: (1,) int64, the only source of randomness.
    """
    sample = torch.arange(samples, device=key.device)
    k = mask_counts(n, samples, uniform(key, 1)[0])  # (samples,)
    noise = uniform(row_keys(sample + key), n)  # (samples, n)
    return random_ranks(torch.ones_like(noise, dtype=torch.bool), noise) < k[:, None]


def log_likelihood_estimate(log_p: torch.Tensor, masked: torch.Tensor) -> torch.Tensor:
    """Mean over samples of n/k times the summed log-probability of the k masked tokens, in nats (LLaDA, equation 6).

    log_p: (samples, n), log-probability of each true token in the sample's state; masked: bool (samples, n). A lower
    bound of log p in expectation; exact for one token.
    """
    n, k = masked.shape[1], masked.sum(dim=1)
    return ((log_p * masked).sum(dim=1) * n / k).mean()
