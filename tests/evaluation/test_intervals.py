"""Our statistics against scipy and statsmodels on the same counts, and against values worked out by hand."""

import itertools
import math

import numpy as np
import pytest

from evaluation.frontier import estimate, resample_weights
from evaluation.metrics.statistics import aup, mcnemar, mean_interval, newcombe, pass_at_k, wilson

PAIRS = [(77, 100, 81, 100), (0, 50, 3, 40), (1319, 1319, 1300, 1319), (61, 164, 67, 164)]


@pytest.mark.parametrize("right,total", [(0, 20), (20, 20), (1, 3), (62, 164), (1021, 1319)])
def test_wilson(right, total):
    proportion = pytest.importorskip("statsmodels.stats.proportion")
    assert wilson(right, total) == pytest.approx(proportion.proportion_confint(right, total, method="wilson"), abs=1e-6)


@pytest.mark.parametrize("a,n,b,m", PAIRS)
def test_newcombe(a, n, b, m):
    proportion = pytest.importorskip("statsmodels.stats.proportion")
    theirs = proportion.confint_proportions_2indep(a, n, b, m, method="newcomb", compare="diff")
    assert newcombe(a, n, b, m) == pytest.approx(theirs, abs=1e-6)


@pytest.mark.parametrize("both,only_a,only_b,neither", [(50, 8, 2, 5), (0, 0, 0, 9), (900, 60, 55, 304), (5, 0, 12, 5)])
def test_mcnemar(both, only_a, only_b, neither):
    tables = pytest.importorskip("statsmodels.stats.contingency_tables")
    a = [True] * both + [True] * only_a + [False] * only_b + [False] * neither
    b = [True] * both + [False] * only_a + [True] * only_b + [False] * neither
    theirs = tables.mcnemar([[both, only_a], [only_b, neither]], exact=True).pvalue
    assert mcnemar(a, b) == pytest.approx(theirs, abs=1e-9)
    assert mcnemar(np.array(a), np.array(b)) == pytest.approx(theirs, abs=1e-9)


def test_paired_bootstrap():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    a = (rng.random(400) < 0.75).astype(float)
    b = np.where(rng.random(400) < 0.15, 1 - a, a)
    weights = resample_weights(400, 5000, seed=1)
    ours = estimate(weights @ (b - a))
    theirs = stats.bootstrap(
        (b, a),
        lambda x, y, axis: x.mean(axis) - y.mean(axis),
        paired=True,
        n_resamples=5000,
        method="percentile",
        rng=np.random.default_rng(2),
    ).confidence_interval
    assert ours.value == pytest.approx((b - a).mean())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.004)


def test_mean_interval():
    stats = pytest.importorskip("scipy.stats")
    values = [0.0, 0.2, 0.4, 1.0, 1.0]
    theirs = stats.norm.interval(0.95, loc=np.mean(values), scale=stats.sem(values))
    assert mean_interval(values) == pytest.approx(theirs, abs=1e-6)
    assert mean_interval([0.5]) == (0.5, 0.5)


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
