"""Envelopes: mixtures of decoders on the upper hull, whatever the points."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.envelope import at_accuracy, at_budget, hull, mean_of

POINTS = {"slow": (48.0, 0.9), "fast": (8.0, 0.5), "middle": (20.0, 0.8), "bad": (24.0, 0.6), "under": (14.0, 0.6)}
some_points = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=3),
    st.tuples(st.integers(1, 48).map(float), st.integers(0, 20).map(lambda k: k / 20)),
    min_size=1,
    max_size=8,
)


def test_the_hull_leaves_out_what_a_mixture_beats():
    assert hull(POINTS) == ["fast", "middle", "slow"]


def test_a_budget_between_two_decoders_mixes_them():
    choice = at_budget(POINTS, 14)
    assert choice == {"fast": 0.5, "middle": 0.5} and mean_of(POINTS, choice) == pytest.approx((14, 0.65))
    assert at_budget(POINTS, 100) == {"slow": 1.0} and at_budget(POINTS, 2) == {"fast": 1.0}


def test_an_accuracy_between_two_decoders_mixes_them():
    assert mean_of(POINTS, at_accuracy(POINTS, 0.85)) == pytest.approx((34, 0.85))
    assert at_accuracy(POINTS, 0.4) == {"fast": 1.0} and at_accuracy(POINTS, 0.95) is None


@given(some_points, st.floats(1, 60, allow_subnormal=False))
def test_no_single_decoder_within_the_budget_is_better(points, budget):
    nfe, accuracy = mean_of(points, at_budget(points, budget))
    affordable = [y for x, y in points.values() if x <= budget]
    if affordable:
        assert nfe <= budget + 1e-9 and accuracy >= max(affordable) - 1e-9


@given(some_points, st.floats(0, 1, allow_subnormal=False))
def test_no_single_decoder_of_the_accuracy_is_cheaper(points, target):
    choice, enough = at_accuracy(points, target), [x for x, y in points.values() if y >= target]
    assert (choice is None) == (not enough)
    if enough:
        nfe, accuracy = mean_of(points, choice)
        assert accuracy >= target - 1e-9 and nfe <= min(enough) + 1e-9
