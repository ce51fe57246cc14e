"""Gold answers are right, by the path a model's output takes, under both protocols."""

import time

import pytest

from evaluation.metrics.scoring import METRICS, RUNS_CODE, judge_all
from evaluation.metrics.verdict import Scoring
from tests.evaluation.benchmarks import gold, rows_of, whole

COUNTS = {"gsm8k": 1319, "math500": 500, "humaneval": 164, "mbpp": 500}


def not_right(task: str, rows: list[dict], protocol: str, end: str = "") -> list:
    pairs = [(row, gold(task, row) + end) for row in rows]
    verdicts = judge_all(task, pairs, Scoring(protocol, confirm_run_unsafe_code=task in RUNS_CODE))
    return [(row, verdict) for row, verdict in zip(rows, verdicts, strict=True) if not verdict.right]


@pytest.mark.parametrize("protocol", ["default", "published"])
@pytest.mark.parametrize("task", METRICS)
def test_slices(task, protocol):
    assert not not_right(task, rows_of(task), protocol)


@pytest.mark.parametrize("task", METRICS)
def test_text_after_the_end_does_not_count(task):
    tail = "<|eot_id|><answer>\\boxed{-1}\n```python\nraise\n```</answer> #### -1"
    assert not not_right(task, rows_of(task)[:2], "default", tail)


@pytest.mark.slow
@pytest.mark.parametrize("task", METRICS)
def test_whole_test_split(task):
    rows = whole(task)
    assert len(rows) == COUNTS[task]
    start = time.perf_counter()
    assert not not_right(task, rows, "default")
    print(f"{task}: {len(rows)} gold answers in {time.perf_counter() - start:.1f} s")


@pytest.mark.parametrize("task", ["gsm8k", "math500"])
def test_data_sets_own_solutions(task):
    """Without the answer format, as a model that ignores it would write."""
    for row in rows_of(task):
        assert METRICS[task].score(row, row["answer"] if task == "gsm8k" else row["solution"])
