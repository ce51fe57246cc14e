"""Random numbers that depend on a key and nothing else.

A mask or a sampled token must not change with the batch around it, with the number of processes, or after a resume.
A stateful generator cannot promise that, so each number here is a hash of (key, counter): the same on every device.
"""

import torch

_MASK_27 = (1 << 37) - 1
_MASK_30 = (1 << 34) - 1
_MASK_31 = (1 << 33) - 1


def _signed(value: int) -> int:
    """The 64-bit pattern `value` as the signed integer that torch stores."""
    return value - (1 << 64) if value >> 63 else value


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_FIRST = _signed(0xBF58476D1CE4E5B9)
_SECOND = _signed(0x94D049BB133111EB)


def mix(x: torch.Tensor) -> torch.Tensor:
    """Hash int64 to int64, every input bit reaching every output bit (the finaliser of splitmix64, Steele 2014)."""
    x = x + _GOLDEN
    # Shifts of negative int64 keep the sign; the masks make them the unsigned shifts the hash needs.
    x = (x ^ ((x >> 30) & _MASK_30)) * _FIRST
    x = (x ^ ((x >> 27) & _MASK_27)) * _SECOND
    return x ^ ((x >> 31) & _MASK_31)


def row_keys(ids: torch.Tensor, *salts: int) -> torch.Tensor:
    """One key per row: ids (B,) int64, for instance example ids, mixed with a seed, a step, ... -> (B,) int64."""
    keys = mix(ids.long())
    for salt in salts:
        keys = mix(keys ^ _signed(salt & ((1 << 64) - 1)))
    return keys


def uniform(keys: torch.Tensor, count: int) -> torch.Tensor:
    """Independent uniform numbers in (0, 1) for each key: (...,) int64 -> (..., count) float64."""
    return uniform_at(keys[..., None], torch.arange(1, count + 1, device=keys.device))


def uniform_at(keys: torch.Tensor, counters: torch.Tensor) -> torch.Tensor:
    """The number of each key at each counter (from 1), int64 tensors that broadcast -> float64 in (0, 1)."""
    bits = mix(mix(keys) + counters * _GOLDEN)
    # 53 random bits fill a float64; the half step keeps 0 and 1 out, so that a logarithm is always finite.
    return (((bits >> 11) & ((1 << 53) - 1)).double() + 0.5) * 2.0**-53
