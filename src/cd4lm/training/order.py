"""The examples of each optimizer step, as a function of (seed, step) alone."""

from collections.abc import Callable, Iterator

import torch
from torch.utils.data import Sampler

from cd4lm.diffusion.noise import row_keys, uniform

# Optimizer steps whose rows are sorted by length together: more steps mean less padding and a less random order.
POOL = 50


def epoch_order(size: int, seed: int, epoch: int) -> list[int]:
    """The order of `size` examples in one pass over the data."""
    return uniform(row_keys(torch.arange(size), seed, epoch), 1)[:, 0].argsort().tolist()


class RunOrder(Sampler):
    """The `total` example numbers of a whole run: pass after pass over the data, each in an order of its own.

    Every optimizer step takes the next rows, however they are divided over micro-batches and processes; a pass that
    ends inside a step goes on in the next one. transformers' own sampler ends each pass with a short step on one
    process and with repeated rows on several, so that a run would depend on the number of processes.
    """

    def __init__(self, size: int, total: int, seed: int):
        self.size, self.total, self.seed = size, total, seed

    def __len__(self) -> int:
        return self.total

    def __iter__(self) -> Iterator[int]:
        for start in range(0, self.total, self.size):
            yield from epoch_order(self.size, self.seed, start // self.size)[: self.total - start]


class LengthGrouped(Sampler):
    """The rows of an order, with those of similar length brought into one optimizer step.

    Within pools of POOL steps rows are sorted by length, cut into steps, and the steps shuffled. They stay sorted
    within a step, so that its micro-batches are even too; one process or many see the same rows in a step.
    length: tokens of an example, asked when its pool begins; step_rows: rows of one optimizer step over all processes and micro-batches.
    """

    def __init__(self, order: RunOrder, length: Callable[[int], int], step_rows: int, seed: int):
        self.order, self.length, self.step_rows, self.seed = order, length, step_rows, seed

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[int]:
        rows, pool = list(self.order), POOL * self.step_rows
        for start in range(0, len(rows), pool):
            ordered = sorted(rows[start : start + pool], key=self.length, reverse=True)
            steps = [ordered[first : first + self.step_rows] for first in range(0, len(ordered), self.step_rows)]
            for step in epoch_order(len(steps), self.seed, start):
                yield from steps[step]
