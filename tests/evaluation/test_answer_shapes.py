"""A sample of docs/answer_shapes.md: gold answers in every shape, right and wrong."""

import pytest

from cd4lm.data.rows import write_jsonl
from scripts.answer_shapes import cases, main, measure
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


@pytest.mark.parametrize(
    "words,message",
    [
        (("--sample", 0), "--sample 0 must be at least 1"),
        (("--tasks", "gsm8k", "mbpp"), "mbpp/all.jsonl does not exist"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_scored(refused, tmp_path, capsys, words, message):
    (tmp_path / "gsm8k").mkdir()
    write_jsonl(tmp_path / "gsm8k/test.jsonl", rows_of("gsm8k"))
    refused(main, message, "--data_dir", tmp_path, *words)
    assert capsys.readouterr().out == ""
