"""Scoring and statistics against values worked out independently."""

import itertools

import pytest

from cd4lm.data import tiny_task
from evaluation.metrics.statistics import mcnemar, wilson


@pytest.mark.parametrize(
    "response,right",
    [
        ("7 + 3 = 10 . #### 10", True),
        ("#### 9 . so #### 10", True),
        ("####10", True),
        ("#### 11", False),
        ("#### -10", False),
        ("10", False),
        ("", False),
        ("#### ten", False),
    ],
)
def test_tiny_score(response, right):
    assert tiny_task.score({"answer": "7 + 3 = 10 . #### 10"}, response) is right


def test_wilson_known_values():
    low, high = wilson(5, 10)
    assert (low, high) == (pytest.approx(0.2366, abs=1e-4), pytest.approx(0.7634, abs=1e-4))
    assert wilson(0, 20)[0] == 0 and wilson(20, 20)[1] == 1


def test_mcnemar_is_the_exact_sign_test():
    a = [True] * 8 + [False] * 2 + [True] * 5
    b = [False] * 8 + [True] * 2 + [True] * 5
    # Of all 2^10 ways to assign ten disagreements, those at least as uneven as 8 to 2.
    uneven = sum(1 for flips in itertools.product((0, 1), repeat=10) if abs(sum(flips) - 5) >= 3)
    assert mcnemar(a, b) == pytest.approx(uneven / 2**10)
    assert mcnemar(a, a) == 1.0
