"""The Monte Carlo estimate of log p(answer | prompt) of a masked diffusion model (LLaDA, section 2.4, equation 6)."""

import torch

from cd4lm.diffusion.masking import random_ranks
from cd4lm.diffusion.noise import row_keys, uniform


def likelihood_masks(n: int, samples: int, key: torch.Tensor) -> torch.Tensor:
    """Which of an answer's n tokens to mask in each sample: bool (samples, n), at least one in every row.

    The number masked is uniform over 1..n, spread evenly over the samples, which keeps the mean and lowers the variance;
    which ones is uniform. key: (1,) int64, the only source of randomness.
    """
    sample = torch.arange(samples, device=key.device)
    k = (n * (sample + uniform(key, 1)[0]) / samples).floor() + 1  # (samples,)
    noise = uniform(row_keys(sample + key), n)  # (samples, n)
    return random_ranks(torch.ones_like(noise, dtype=torch.bool), noise) < k[:, None]


def log_likelihood_estimate(log_p: torch.Tensor, masked: torch.Tensor) -> torch.Tensor:
    """Mean over samples of n/k times the summed log-probability of the k masked tokens, in nats (LLaDA, equation 6).

    log_p: (samples, n), log-probability of each true token in the sample's state; masked: bool (samples, n). A lower
    bound of log p in expectation; exact for one token.
    """
    n, k = masked.shape[1], masked.sum(dim=1)
    return ((log_p * masked).sum(dim=1) * n / k).mean()
