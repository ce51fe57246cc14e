"""The order of examples is a function of the step alone."""

from collections import Counter
from itertools import chain

import pytest
import torch
from torch.utils.data import BatchSampler

from cd4lm.training.order import LengthGrouped, RunOrder, epoch_order
from tests.training.test_trainer import losses, trainer


def test_every_pass_sees_every_example_once_in_its_own_order():
    order = list(RunOrder(22, 50, seed=3))
    assert len(order) == 50
    assert sorted(order[:22]) == sorted(order[22:44]) == list(range(22))
    assert order[:22] != order[22:44]
    assert max(Counter(order).values()) <= 3


def test_a_seed_is_an_order():
    assert epoch_order(100, 1, 0) == epoch_order(100, 1, 0) != epoch_order(100, 2, 0)


def test_a_step_has_the_same_rows_for_every_division():
    order = RunOrder(22, 6 * 8, seed=0)
    whole = [set(batch) for batch in BatchSampler(order, 8, drop_last=False)]
    for micro in (1, 2, 4):
        batches = list(BatchSampler(order, micro, drop_last=False))
        share = 8 // micro
        assert [set(chain(*batches[i : i + share])) for i in range(0, len(batches), share)] == whole


LENGTHS = torch.randint(10, 500, (1003,), generator=torch.Generator().manual_seed(0)).tolist()


def grouped(seed: int = 1) -> list[int]:
    return list(LengthGrouped(RunOrder(len(LENGTHS), 2400, seed), LENGTHS.__getitem__, 8, seed))


def padding(rows: list[int], batch: int) -> int:
    batches = [[LENGTHS[i] for i in rows[start : start + batch]] for start in range(0, len(rows), batch)]
    return sum(max(b) * len(b) - sum(b) for b in batches)


def test_grouping_by_length_keeps_the_rows_and_evens_the_batches():
    plain = list(RunOrder(len(LENGTHS), 2400, 1))
    assert sorted(grouped()) == sorted(plain)
    assert grouped() == grouped() and grouped(2) != grouped()
    for batch in (2, 8):
        assert padding(grouped(), batch) < 0.15 * padding(plain, batch)
    means = [sum(LENGTHS[i] for i in grouped()[s : s + 8]) / 8 for s in range(0, 2400, 8)]
    assert abs(sum(means[:25]) / 25 - sum(means[25:50]) / 25) < 80  # long and short steps come mixed


def test_grouped_runs_resume_and_accumulate_alike(tmp_path):
    whole = trainer(tmp_path / "a", group_by_length=True, max_steps=10, save_steps=4)
    whole.train()
    resumed = trainer(tmp_path / "a", group_by_length=True, max_steps=10, save_steps=4)
    resumed.train(resume_from_checkpoint=str(tmp_path / "a/checkpoint-8"))
    assert losses(resumed) == pytest.approx(losses(whole), abs=1e-6)
    small = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4}
    parts = trainer(tmp_path / "b", group_by_length=True, max_steps=10, **small)
    parts.train()
    assert losses(parts) == pytest.approx(losses(whole), abs=1e-4)
