"""The keyed random numbers: the hash itself, its distribution, and independence from the batch."""

import torch

from cd4lm.diffusion.noise import mix, row_keys, uniform


def splitmix64(x: int) -> int:
    """The published hash in unbounded integers."""
    x = (x + 0x9E3779B97F4A7C15) % 2**64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % 2**64
    return x ^ (x >> 31)


def test_mix_is_splitmix64():
    values = [0, 1, 5, 2**40 + 3, -1, -(2**62)]
    assert [m % 2**64 for m in mix(torch.tensor(values)).tolist()] == [splitmix64(v % 2**64) for v in values]


def test_uniform_is_uniform_and_uncorrelated():
    u = uniform(row_keys(torch.arange(200), 7), 5000)
    assert u.min() > 0 and u.max() < 1
    counts = torch.histc(u.float(), bins=50, min=0, max=1)
    chi2 = ((counts - 20000) ** 2 / 20000).sum()
    assert chi2 < 95  # 49 degrees of freedom: above with probability 1e-4
    correlation = torch.corrcoef(u).fill_diagonal_(0) * 5000**0.5
    assert abs(correlation.std() - 1) < 0.05


def test_rows_do_not_depend_on_the_batch():
    together = uniform(row_keys(torch.tensor([3, 8, 5]), 1, 2), 10)
    alone = uniform(row_keys(torch.tensor([8]), 1, 2), 10)
    assert torch.equal(together[1], alone[0])


def test_every_salt_counts():
    ids = torch.arange(4)
    keys = [row_keys(ids), row_keys(ids, 0), row_keys(ids, 1), row_keys(ids, 0, 1), row_keys(ids, 1, 0)]
    assert len(torch.stack(keys).flatten().unique()) == 20
