"""Rows of the benchmarks are checked before anything is decoded or scored."""

import pytest

from evaluation.metrics import rescore
from evaluation.metrics.scoring import METRICS, check_rows
from tests.conftest import ROOT
from tests.evaluation.benchmarks import rows_of, whole


@pytest.mark.parametrize("task", METRICS)
def test_published_rows_pass(task):
    check_rows(task, enumerate(rows_of(task)))


@pytest.mark.slow
@pytest.mark.parametrize("task", METRICS)
def test_all_published_rows_pass(task):
    check_rows(task, enumerate(whole(task)))


@pytest.mark.parametrize(
    "task,fields,message",
    [
        ("gsm8k", {"answer": "#### five"}, "has no plain number after #### in column 'answer' but 'five'"),
        ("gsm8k", {"answer": "#### $3"}, "but '$3'"),
        ("gsm8k", {"answer": "5"}, "has no plain number after ####"),
        ("gsm8k", {"answer": "#### nan"}, "has no plain number after ####"),
        ("gsm8k", {"answer": 18}, "has no text in column 'answer' but 18"),
        ("math500", {"answer": None}, "has no text in column 'answer' but None"),
        ("math500", {"answer": " "}, "has no text in column 'answer': it is empty"),
        ("humaneval", {"test": None}, "has no text in column 'test' but None"),
        ("humaneval", {"test": "def check(:"}, "has no readable Python in column 'test'"),
        ("humaneval", {"test": "assert True"}, "has no function check in column 'test'"),
        ("humaneval", {"entry_point": "other"}, "has a prompt that does not begin the function 'other'"),
        ("mbpp", {"test_list": "assert True"}, "has no list of tests in column 'test_list' but 'assert True'"),
        ("mbpp", {"test_list": []}, "has no list of tests in column 'test_list'"),
        ("mbpp", {"test_list": ["assert ("]}, "has tests that are no readable Python"),
        ("mbpp", {"test_setup_code": None}, "has no text in column 'test_setup_code'"),
    ],
)
def test_rows_that_cannot_be_scored_are_named(task, fields, message):
    first, second, *_ = rows_of(task)
    rows = (("rows.jsonl row 1", first), ("rows.jsonl row 2", second | fields))
    with pytest.raises(ValueError) as caught:
        check_rows(task, rows)
    assert str(caught.value).startswith("rows.jsonl row 2 ") and message in str(caught.value)
    assert str(caught.value).endswith(": repair or remove it")


def test_what_is_fine(task="gsm8k"):
    row = rows_of(task)[0]
    check_rows(task, (("row", row | {"answer": answer}) for answer in ("#### 1,000", "x\n####  -5 ", "#### 2.50")))


@pytest.mark.parametrize(
    "name,message",
    [
        ("samples_gsm8k_F13_bad_gold_units", "document 1 has no plain number after #### in column 'answer' but '$18'"),
        ("samples_humaneval_plus_F13_no_test", "document 0 has no text in column 'test'"),
    ],
)
def test_rows_are_checked_before_a_file_is_scored_again(refused, name, message):
    task = name.split("_")[1]
    file = ROOT / f"tests/fixtures/inputs/{name}.jsonl"
    more = ("--confirm_run_unsafe_code",) if task == "humaneval" else ()
    refused(lambda: rescore.command(task, ""), f"{name}.jsonl {message}", "--res_path", file, *more)
