"""Seeds are the unit: intervals, verdicts and what they rest on, against values computed by hand or by scipy."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from cd4lm.config import load
from cd4lm.data import gsm8k_numbers
from cd4lm.data.tiny_task import World, answer_bits, make_row
from evaluation.intervals import Interval, area_under_roc, clustered_variance, over_seeds
from evaluation.study.analysis import cluster_of, verdict
from evaluation.study.plots import crossed
from evaluation.study.settings import TEACHER, Contrast, StudyConfig
from tests.conftest import ROOT

N = 400
ALONE = np.arange(N)


def contrast(**changes) -> Contrast:
    return Contrast(**({"a": "a", "b": "b", "question": "?", "worlds": ("w",), "main": True} | changes))


def test_clusters_of_one_are_the_ordinary_variance():
    values = np.random.default_rng(0).normal(size=N)
    variance, clusters = clustered_variance(values, ALONE)
    assert clusters == N and variance == pytest.approx(values.var(ddof=1) / N)


def test_problems_that_repeat_a_key_count_once():
    values = np.random.default_rng(1).normal(size=100)
    once, _ = clustered_variance(values, np.arange(100))
    twice, clusters = clustered_variance(np.repeat(values, 2), np.repeat(np.arange(100), 2))
    assert clusters == 100 and twice == pytest.approx(once)


def test_what_problems_share():
    """Problems of one question with other numbers are one cluster, and so are those of one arithmetic in other words."""
    rows = [gsm8k_numbers.make_row("numbers", i, 5) for i in range(300)]
    openings = {}  # a cluster's questions begin alike, and other ones do not
    for row in rows:
        openings.setdefault(cluster_of(row), set()).add(re.split(r"\d", row["question"])[0])
    assert 1 < len(openings) < len({row["key"] for row in rows}) and all(len(found) == 1 for found in openings.values())
    assert len(set.union(*openings.values())) > 0.95 * len(openings)
    told = [make_row("test", i, 0, World(8, (3,))) for i in range(50)]
    assert [cluster_of(row) for row in told] == [row["key"] for row in told]


def test_equal_problems_leave_the_t_test_over_seeds():
    """Without variation between problems the interval is the paired t-test's on the seeds."""
    a, b = np.array([0.8, 0.82, 0.81, 0.85, 0.79]), np.array([0.7, 0.75, 0.76, 0.74, 0.73])
    found = over_seeds(a[:, None].repeat(N, 1), b[:, None].repeat(N, 1), ALONE, paired=True)
    known = stats.ttest_rel(a, b)
    assert found.value == pytest.approx((a - b).mean()) and found.p == pytest.approx(known.pvalue)
    low, high = known.confidence_interval()
    assert (found.low, found.high, found.freedom) == pytest.approx((low, high, 4))
    apart = over_seeds(a[:, None].repeat(N, 1), b[:, None].repeat(N, 1), ALONE, paired=False)
    assert apart.p == pytest.approx(stats.ttest_ind(a, b, equal_var=False).pvalue)


def test_equal_seeds_leave_the_variance_over_problems():
    row = (np.random.default_rng(2).random(N) < 0.7).astype(float)
    found = over_seeds(np.stack([row] * 5), None, ALONE, paired=False)
    half = stats.t.ppf(0.975, N - 1) * row.std(ddof=1) / np.sqrt(N)
    assert (found.high - found.low) / 2 == pytest.approx(half) and found.freedom == pytest.approx(N - 1)


def test_the_interval_covers_as_often_as_it_says():
    """Seeds and problems both drawn anew: 95 % of the intervals hold the true difference."""
    rng, held = np.random.default_rng(3), 0
    for _ in range(400):
        problem = rng.normal(0, 0.3, size=60)
        a = 0.1 + problem + rng.normal(0, 0.05, size=(5, 1)) + rng.normal(0, 0.3, size=(5, 60))
        b = rng.normal(0, 0.05, size=(5, 1)) + rng.normal(0, 0.3, size=(5, 60))
        found = over_seeds(a, b, np.arange(60), paired=False)
        held += found.low <= 0.1 <= found.high
    assert 0.93 <= held / 400 <= 0.995


def test_one_seed_is_a_number_without_an_interval():
    found = over_seeds(np.ones((1, N)), np.zeros((1, N)), ALONE, paired=True)
    assert found == Interval(1.0) and verdict(contrast(), found, 1, None, 0.01) == "a number"


@pytest.mark.parametrize(
    "found,seeds,holm,said",
    [
        (Interval(0.05, 0.02, 0.08, 0.001, 4), 5, 0.01, "higher"),
        (Interval(-0.05, -0.08, -0.02, 0.001, 4), 5, 0.01, "lower"),
        (Interval(0.05, 0.02, 0.08, 0.02, 4), 5, 0.2, "undecided"),
        (Interval(0.001, -0.004, 0.006, 0.7, 4), 5, 1.0, "equal"),
        (Interval(0.001, -0.02, 0.006, 0.7, 4), 5, 1.0, "undecided"),
        (Interval(0.05, 0.02, 0.08, 0.001, 2), 3, 0.01, "a number"),
    ],
)
def test_verdicts(found, seeds, holm, said):
    assert verdict(contrast(), found, seeds, holm, 0.01) == said
    assert verdict(contrast(main=False), found, seeds, None, 0.01) == "a number"


def test_ranking_by_confidence():
    assert area_under_roc([0.9, 0.8, 0.3, 0.2], [1, 1, 0, 0]) == 1.0
    assert area_under_roc([0.5, 0.5], [1, 0]) == 0.5 and area_under_roc([0.5, 0.6], [1, 1]) is None


def test_entropy_of_the_datas_answers():
    rows = [make_row("test", i, 0, World(4, (3,))) for i in range(50)]
    swaps = sum(sum(op in "+*" for op in row["key"]) for row in rows) / 50
    bits = [np.mean([answer_bits(row["key"], wordings) for row in rows]) for wordings in (4, 1)]
    assert bits == pytest.approx([3 * 2 + swaps, 0])


def test_no_two_models_of_a_plot_share_a_colour():
    study = load(StudyConfig, ROOT / "configs/evidence.yaml")
    for world in study.worlds:
        records = {(world, arm): [] for arm in (TEACHER, *study.arms)}
        drawn = list(crossed(SimpleNamespace(study=study, records=records), world))
        assert len({how["color"] for _, _, how in drawn}) == len(drawn) >= 3
