"""Which examples an optimiser step sees, as a function of (seed, step) alone."""

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from src.diffusion.noise import row_keys, uniform


def epoch_order(size: int, seed: int, epoch: int) -> list[int]:
    """The order of `size` examples in one pass over the data."""
    return uniform(row_keys(torch.arange(size), seed, epoch), 1)[:, 0].argsort().tolist()


class RunOrder(Sampler):
    """The `total` example numbers of a whole run: pass after pass over the data, each in an order of its own.

    Every optimiser step takes the next rows, however they are divided over micro-batches and processes; a pass that
    ends inside a step goes on in the next one. A Trainer that shuffles by itself ends each pass with a short step on
    one process and fills it up with repeated rows on several, so their runs differ.
    """

    def __init__(self, size: int, total: int, seed: int):
        self.size, self.total, self.seed = size, total, seed

    def __len__(self) -> int:
        return self.total

    def __iter__(self) -> Iterator[int]:
        for start in range(0, self.total, self.size):
            yield from epoch_order(self.size, self.seed, start // self.size)[: self.total - start]
