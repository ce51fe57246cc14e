"""Published figures beside runs with known accuracies: the shared y_max, areas by hand, and one table per protocol."""

import math

import pytest

from cd4lm.config import ConfigError, build
from evaluation.protocol import NAMES, Protocol
from evaluation.published import PublishedFigures, markdown, pool_table, pools_of, published_tables
from evaluation.run import Run
from scripts.paper_table import PAPER
from tests.evaluation.test_compare import run_of

HUMANEVAL = Protocol.read("field").benchmarks["humaneval"]


def recorded(name: str, right: float, rho: float, threshold: float = 0.9, n: int = 164, **changes) -> Run:
    """A run of HumanEval under the field's protocol, or under changed conditions: right of n at rho tokens per forward."""
    options = {"confidence_threshold": threshold}
    run = run_of(name, "m", options, [i < round(right * n) for i in range(n)], [10] * n, [10 * rho] * n)
    protocol = {"name": "field"} | HUMANEVAL.conditions(**changes)
    return Run(run.about | {"task": "humaneval", "protocol": protocol}, run.documents)


def pool(runs):
    """The pool of HumanEval under the field's protocol."""
    return next(p for p in pools_of(runs, "field") if p.title == "HumanEval" and p.published)


def test_every_figure_has_a_source_and_a_protocol_or_a_harness_in_words():
    for table in published_tables():
        assert table.source and (table.protocol in NAMES or table.harness)
        known = Protocol.read(table.protocol or "default").benchmarks
        for figures in table.methods.values():
            assert figures.keys() <= known.keys()
            assert all(0 < accuracy < 100 for points in figures.values() for _, accuracy in points)
    first = published_tables()[0].methods
    assert first["d3LLM"]["gsm8k"] == ((9.11, 73.09),) and first["TAD quality"]["math"] == ((4.49, 42.66),)
    assert len(first) == 7 and all(len(figures) == 4 for figures in first.values())


def test_cd4lms_table_is_the_stored_one():
    assert list(PAPER) == ["gsm8k", "math500", "humaneval", "mbpp"]
    row = PAPER["math500"]
    assert (row.title, row.documents, row.llada, row.cd4lm, row.speedup) == ("MATH500", 500, 37.3, 38.6, 5.33)


def test_areas_share_the_best_accuracy_of_the_table():
    best = recorded("best", 0.5, 2)
    accuracy = 100 * best.right.mean()  # above every published one
    worse = recorded("worse", 0.48, 4, threshold=0.8)
    lost = recorded("lost", 0.4, 9, threshold=0.5)  # more than 5 points under the family's first
    found = pool([best, worse, lost])
    assert found.y_max == accuracy == 50
    areas, low = found.areas(), 100 * worse.right.mean()

    def weighted(y):
        return y * math.exp(-3 * (1 - y / accuracy))

    assert areas["m + cad"].value == pytest.approx(2 * accuracy + (4 - 2) / 2 * (accuracy + weighted(low)))
    assert areas["m + cad"].points == 2
    theirs = areas["dParallel (published)"]
    by_hand = 39.68 + (4.93 - 1) / 2 * (weighted(39.68) + weighted(39.02))
    assert theirs.value == pytest.approx(by_hand) and theirs.y_max == accuracy
    assert all(area.y_max == accuracy for area in areas.values())
    assert areas["LLaDA (published)"].value == 38.28  # one point at one token per forward


def test_a_run_over_a_few_documents_moves_no_published_area():
    alone = pool([])
    few = pool([recorded("few", 1.0, 3, n=4)])
    assert few.y_max == alone.y_max == 42.07
    assert few.areas()["d3LLM (published)"] == alone.areas()["d3LLM (published)"]
    assert "4 of 164" in pool_table(few) and "AUP (y_max 42.1)" in pool_table(few)


def test_no_run_is_left_out_and_none_stands_beside_figures_of_another_protocol():
    runs = [recorded("a", 0.4, 2), recorded("b", 0.4, 2, gen_length=512), recorded("c", 0.4, 2, num_fewshot=3)]
    runs.append(Run({k: v for k, v in runs[0].about.items() if k != "protocol"} | {"name": "d"}, runs[0].documents))
    pools = pools_of(runs, "field")
    held = [[run.name for run in p.runs] for p in pools if p.runs]
    assert held == [["a"], ["b"], ["c"], ["d"]]
    assert [p.note for p in pools if p.runs] == [
        "",
        "Run as field, but with gen_length=512, not 256.",
        "Run as field, but with num_fewshot=3, not 0.",
        "These runs say nothing of their protocol.",
    ]
    assert [bool(p.published) for p in pools if p.runs] == [True, False, False, False]
    text = markdown(pools, "field")
    assert all(text.count(f": {name} |") == 1 for name in "abcd")
    assert text.count("this repository: not run") == 3  # GSM8K, MATH and MBPP


def test_the_protocol_that_is_asked_for_comes_first_and_others_only_with_runs():
    titles = [(p.title, p.header.partition(":")[0]) for p in pools_of([recorded("a", 0.4, 2)], "published")]
    assert titles[:4] == [(title, "protocol published") for title in ("GSM8K", "MATH500", "HumanEval", "MBPP")]
    assert titles[4] == ("HumanEval", "protocol field") and titles[5:] == [
        ("GSM8K", "CDLM's own, whose prompts are not known"), ("HumanEval", "CDLM's own, whose prompts are not known")
    ]  # fmt: skip


@pytest.mark.parametrize(
    "change,message",
    [
        ({"protocol": "fields"}, "protocol=fields is not one of"),
        ({"harness": "x"}, "give either protocol or harness"),
        ({"methods": {"A": {"gsm8k": [[0, 5.0]]}}}, "must be above 0"),
    ],
)
def test_a_mistake_in_the_file_is_one_line(change, message):
    table = {"title": "t", "source": "s", "protocol": "field", "methods": {"A": {"gsm8k": [[1, 5.0]]}}} | change
    with pytest.raises(ConfigError, match=message) as caught:
        build(PublishedFigures, {"tables": [table]})
    assert "\n" not in str(caught.value)
