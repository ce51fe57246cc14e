"""Our statistics against scipy and statsmodels on the same counts, and against values worked out by hand."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from evaluation.intervals import (
    aup,
    estimate,
    holm,
    mcnemar,
    mean_difference,
    mean_ratio,
    nfe_at,
    pass_at_k,
    resample,
    wilson,
    wilson_of_clusters,
)


@pytest.mark.parametrize("right,total", [(0, 20), (20, 20), (1, 3), (62, 164), (1021, 1319)])
def test_wilson(right, total):
    proportion = pytest.importorskip("statsmodels.stats.proportion")
    assert wilson(right, total) == pytest.approx(proportion.proportion_confint(right, total, method="wilson"), abs=1e-6)


@pytest.mark.parametrize("both,only_a,only_b,neither", [(50, 8, 2, 5), (0, 0, 0, 9), (900, 60, 55, 304), (5, 0, 12, 5)])
def test_mcnemar(both, only_a, only_b, neither):
    tables = pytest.importorskip("statsmodels.stats.contingency_tables")
    a = [True] * both + [True] * only_a + [False] * only_b + [False] * neither
    b = [True] * both + [False] * only_a + [True] * only_b + [False] * neither
    theirs = tables.mcnemar([[both, only_a], [only_b, neither]], exact=True).pvalue
    assert mcnemar(a, b) == pytest.approx(theirs, abs=1e-9)
    assert mcnemar(np.array(a), np.array(b)) == pytest.approx(theirs, abs=1e-9)


def test_mcnemar_is_the_exact_sign_test():
    a = [True] * 8 + [False] * 2 + [True] * 5
    b = [False] * 8 + [True] * 2 + [True] * 5
    # Of all 2^10 ways to assign ten disagreements, those at least as uneven as 8 to 2.
    uneven = sum(1 for flips in itertools.product((0, 1), repeat=10) if abs(sum(flips) - 5) >= 3)
    assert mcnemar(a, b) == pytest.approx(uneven / 2**10)
    assert mcnemar(a, a) == 1.0


@pytest.mark.parametrize("p_values", [[0.01, 0.04, 0.03, 0.005], [0.5], [0.9, 0.9, 0.9], []])
def test_holm_is_stepping_down_by_hand(p_values):
    """The k-th smallest of m is multiplied by m - k + 1, and none is smaller than one before it (Holm 1979)."""
    expected, largest, m = [0.0] * len(p_values), 0.0, len(p_values)
    for k, i in enumerate(sorted(range(m), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (m - k) * p_values[i]))
        expected[i] = largest
    assert holm(p_values) == pytest.approx(expected)


@pytest.mark.parametrize("to_come", [[0.001], [0.2, 0.9], [0.02, 0.02, 0.02]])
def test_holm_with_tests_still_to_come_promises_nothing_that_they_could_take_back(to_come):
    now = holm([0.01, 0.04], planned=2 + len(to_come))
    assert now[0] == pytest.approx(0.01 * (2 + len(to_come)))
    assert all(late <= early for early, late in zip(now, holm([0.01, 0.04, *to_come]), strict=False))


def paired_outcomes() -> tuple[np.ndarray, np.ndarray]:
    """Right and wrong, (400,) each, of two runs that differ on about 15 % of the documents."""
    rng = np.random.default_rng(0)
    a = (rng.random(400) < 0.75).astype(float)
    return a, np.where(rng.random(400) < 0.15, 1 - a, a)


def test_a_difference_has_scipys_paired_interval():
    a, b = paired_outcomes()
    theirs = stats.bootstrap(
        (a, b),
        lambda x, y, axis: x.mean(axis) - y.mean(axis),
        paired=True,
        n_resamples=5000,
        method="percentile",
        rng=np.random.default_rng(2),
    ).confidence_interval
    ours = mean_difference(a, b)
    assert ours.value == pytest.approx((a - b).mean()) and ours.reached == 1.0
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.006)
    assert mean_difference(a, b) == ours, "the same data give the same interval"


def test_the_interval_of_a_mean_is_near_the_normal_one():
    a, _ = paired_outcomes()
    ours = estimate(resample(lambda x: x.mean(axis=-1), a))
    theirs = stats.norm.interval(0.95, loc=a.mean(), scale=stats.sem(a))
    assert (ours.low, ours.high) == pytest.approx(theirs, abs=0.006)
    one = estimate(resample(lambda x: x.mean(axis=-1), np.array([0.5])))
    assert (one.value, one.low, one.high) == (0.5, 0.5, 0.5)


def test_a_ratio_of_means_is_paired():
    """Columns that are proportional have a ratio without any spread, however much each of them varies."""
    nfe = np.random.default_rng(0).uniform(10, 200, 50)
    ratio = mean_ratio(3 * nfe, nfe)
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((3, 3, 3))


def test_nfe_at_a_target_is_interpolated():
    accuracy, nfe = np.array([[0.8, 0.4, 0.6]] * 3), np.array([[40.0, 10.0, 20.0]] * 3)
    found = nfe_at(accuracy, nfe, np.array([0.7, 0.3, 0.9]))
    assert found[:2] == pytest.approx([30.0, 10.0]) and math.isnan(found[2])


def test_pass_at_k_is_the_share_of_subsets_with_a_right_one():
    for n, right, k in [(5, 2, 1), (5, 2, 3), (5, 0, 5), (5, 5, 1), (6, 1, 6), (7, 3, 5)]:
        subsets = list(itertools.combinations(range(n), k))
        share = sum(any(i < right for i in subset) for subset in subsets) / len(subsets)
        assert pass_at_k(n, right, k) == pytest.approx(share)
    with pytest.raises(ValueError, match="n=3 right=1 k=5"):
        pass_at_k(3, 1, 5)


def test_aup():
    assert aup([(1.0, 70.0)]).value == pytest.approx(70.0)
    weight = math.exp(-3 * (1 - 70 / 80))
    two = aup([(5.0, 70.0), (1.0, 72.0)], y_max=80.0)
    first = 72 * math.exp(-3 * (1 - 72 / 80))
    assert two.value == pytest.approx(72.0 + 4 / 2 * (70 * weight + first)) and two.y_max == 80.0
    dropped = aup([(1.0, 72.0), (3.0, 72.0), (9.0, 66.9)])
    assert dropped.points == 2 and dropped.value == pytest.approx(72.0 * 3) and dropped.y_max == 72.0
    assert aup([(1.0, 72.0), (3.0, 72.0)], y_max=60.0).value == pytest.approx(216.0)  # no weight above 1
    with pytest.raises(ValueError, match="at least one point"):
        aup([])


def test_problems_of_one_cluster_count_as_one_where_they_are_all_alike():
    alone = np.array([1.0] * 60 + [0.0] * 40)
    assert wilson_of_clusters(alone, range(100)) == pytest.approx(wilson(59, 99), abs=0.01)
    repeated, clusters = np.repeat(alone, 5), np.repeat(np.arange(100), 5)
    assert wilson_of_clusters(repeated, clusters) == wilson_of_clusters(alone, range(100))
    assert wilson_of_clusters(repeated, range(500))[0] > wilson_of_clusters(repeated, clusters)[0]
    assert wilson_of_clusters(np.ones(500), clusters) == wilson(100, 100)
