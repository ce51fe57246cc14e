"""The order of examples is a function of the step alone."""

from collections import Counter
from itertools import chain

from torch.utils.data import BatchSampler

from src.training.order import RunOrder, epoch_order


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
