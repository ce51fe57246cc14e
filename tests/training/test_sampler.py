"""Length-grouped order: every row once, reproducible, even batches, resumable."""

import pytest
import torch

from src.training.sampler import LengthGroupedSampler
from tests.training.test_trainer import losses, trainer

LENGTHS = torch.randint(10, 500, (1003,), generator=torch.Generator().manual_seed(0)).tolist()


def order(seed: int = 1, epoch: int = 0, step_rows: int = 8) -> list[int]:
    sampler = LengthGroupedSampler(LENGTHS, step_rows, seed)
    sampler.set_epoch(epoch)
    return list(sampler)


def padding(rows: list[int], batch: int) -> int:
    batches = [[LENGTHS[i] for i in rows[start : start + batch]] for start in range(0, len(rows), batch)]
    return sum(max(b) * len(b) - sum(b) for b in batches)


def test_every_row_once_an_epoch():
    assert sorted(order()) == list(range(len(LENGTHS)))


def test_order_is_a_function_of_seed_and_epoch():
    assert order() == order()
    assert order(epoch=1) != order() and order(seed=2) != order()


def test_micro_batches_are_even():
    for batch in (2, 8):
        assert padding(order(), batch) < 0.15 * padding(list(range(len(LENGTHS))), batch)


def test_steps_of_all_lengths_come_mixed():
    means = [sum(LENGTHS[i] for i in order()[s : s + 8]) / 8 for s in range(0, 800, 8)]
    assert abs(sum(means[:50]) / 50 - sum(means[50:]) / 50) < 60


def test_a_resumed_run_sees_the_same_rows(tmp_path):
    settings = {"group_by_length": True, "max_steps": 10, "save_steps": 4}  # 6 steps an epoch: resumes in the second
    whole = trainer(tmp_path, **settings)
    whole.train()
    resumed = trainer(tmp_path, **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-8"))
    assert losses(resumed) == pytest.approx(losses(whole), abs=1e-6)


def test_accumulation_sees_the_same_rows_in_a_step(tmp_path):
    whole = trainer(tmp_path / "a", group_by_length=True)
    parts = trainer(tmp_path / "b", group_by_length=True, per_device_train_batch_size=1, gradient_accumulation_steps=4)
    whole.train()
    parts.train()
    assert losses(parts) == pytest.approx(losses(whole), abs=1e-4)
