"""A sample of docs/answer_shapes.md: gold answers in every shape, right and wrong."""

import pytest

from scripts.answer_shapes import cases, measure
from tests.evaluation.benchmarks import rows_of


@pytest.mark.parametrize("task,rows", [("gsm8k", 5), ("math500", 100), ("humaneval", 1), ("mbpp", 1)])
def test_sample(task, rows):
    failed, counts, _ = measure(task, rows_of(task)[:rows])
    assert not failed, {shape: found[0].response for shape, found in failed.items()}
    right = [shape for shape in counts if not shape.startswith("wrong: ")]
    assert len(right) >= (30 if task in ("gsm8k", "math500") else 15)


@pytest.mark.parametrize("task", ["gsm8k", "math500"])
def test_every_row_has_wrong_answers(task):
    for row in rows_of(task):
        assert sum(not case.right for case in cases(task, row)) >= 5
