"""The order of the training data where rows of similar length are to share a batch."""

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

POOL = 50  # optimiser steps whose rows are sorted together: more is less padding and less random


class LengthGroupedSampler(Sampler[int]):
    """Every row once an epoch, in an order that is a function of (seed, epoch): resuming and processes repeat it.

    Rows are shuffled, sorted by length within pools of POOL optimiser steps, and the steps are shuffled. Rows are kept
    in order within a step, so its micro-batches are even too, and one process or many see the same rows in a step.
    lengths: tokens per row; step_rows: rows of one optimiser step, over all processes and micro-batches.
    """

    def __init__(self, lengths: Sequence[int], step_rows: int, seed: int):
        self.lengths, self.step_rows, self.seed, self.epoch = lengths, step_rows, seed, 0

    def __len__(self) -> int:
        return len(self.lengths)

    def set_epoch(self, epoch: int) -> None:
        """Called by the data loader as an epoch begins."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(len(self.lengths), generator=generator).tolist()
        pool = POOL * self.step_rows
        order = [i for start in range(0, len(order), pool) for i in self.sort(order[start : start + pool])]
        steps = [order[start : start + self.step_rows] for start in range(0, len(order), self.step_rows)]
        whole = len(order) // self.step_rows  # a last, smaller step stays last
        shuffled = torch.randperm(whole, generator=generator).tolist()
        return (i for step in [*shuffled, *range(whole, len(steps))] for i in steps[step])

    def sort(self, rows: list[int]) -> list[int]:
        return sorted(rows, key=lambda i: self.lengths[i], reverse=True)
