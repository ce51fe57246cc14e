"""Scoring finished runs again: the commands as a user types them."""

import json

import pytest

from evaluation.metrics.rescore import files_of, read_documents
from evaluation.run import Run
from tests.command_line import alone, command, refused
from tests.conftest import ROOT
from tests.evaluation.benchmarks import gold, rows_of

METRICS = ("gsm8k", "math500", "humaneval", "mbpp")


def write_run(folder, task: str, responses: list, **recorded) -> None:
    """A run whose documents are the first rows of a task with these responses."""
    rows = rows_of(task.split("_")[0])
    documents = [{"id": i, "doc": rows[i], "response": r} | recorded for i, r in enumerate(responses)]
    Run({"name": "a run", "task": task}, documents).write(folder)


def write_lines(path, lines) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def rescored(metric: str, *words) -> tuple[list[dict], str]:
    """What the command says per file, and its whole output."""
    done = alone("-m", f"evaluation.metrics.{metric}", "--res_path", *words)
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout.splitlines()[-1]).values()), done.stdout


def test_a_run(tmp_path):
    responses = [gold("gsm8k", row) for row in rows_of("gsm8k")[:6]] + ["I do not know."] * 4
    write_run(tmp_path / "cad", "gsm8k", responses, right=True)
    [result], output = rescored("gsm8k", tmp_path)
    assert result["task"] == "gsm8k" and result["accuracy"] == 0.6 and result["differs_from_recorded"] == 4
    assert result["outcomes"] == {"right": 6, "wrong": 0, "no_answer": 4, "timeout": 0, "error": 0}
    assert result["accuracy_95"] == pytest.approx([0.3127, 0.8318], abs=1e-4)
    assert "60.0 % [31.3, 83.2] of 10 documents" in output
    assert "4 documents scored differently" in output


def test_the_interval_of_few_documents_stays_within_what_an_accuracy_can_be():
    [result], output = rescored("gsm8k", ROOT / "tests/fixtures/inputs/samples_gsm8k_F21_interval.jsonl")
    assert result["accuracy"] == 0.75 and result["accuracy_95"] == [0.5, 1.0] and result["documents"] == 2
    assert "75.0 % [50.0, 100.0] of 2 documents" in output


def test_a_file_by_itself_and_the_metrics_file_as_a_script(tmp_path):
    write_run(tmp_path, "gsm8k", ["18"])
    words = ("--res_path", tmp_path / "documents.jsonl", "--protocol", "published")
    done = command("evaluation/metrics/gsm8k.py", *words)
    assert done.returncode == 0, done.stderr
    assert "0 right, 0 wrong, 1 no_answer" in done.stdout


def test_lm_evals_own_samples(tmp_path):
    lines = [
        json.dumps(
            {"doc_id": i, "doc": row, "resps": [[gold("math500", row)]], "filter": name, "target": row["answer"]}
        )
        for name in ("strict", "flexible")
        for i, row in enumerate(rows_of("math500"))
    ]
    write_lines(tmp_path / "model/samples_dllm_math500_2026-01-01T00-00-00.000001.jsonl", lines)
    [result], _ = rescored("math500", tmp_path, "--protocol", "published")
    assert result["documents"] == len(rows_of("math500")) and result["accuracy"] == 1.0
    assert result["differs_from_recorded"] is None


@pytest.mark.parametrize("task", ["humaneval", "mbpp"])
def test_pass_at_k_of_programs(task, tmp_path):
    right, wrong = gold(task, rows_of(task)[0]), "```python\nx = 1\n```"
    write_run(tmp_path, f"{task}_pass5", [[right, wrong, right], [wrong, wrong, "nothing here"]])
    refused(alone("-m", f"evaluation.metrics.{task}", "--res_path", tmp_path), "--confirm_run_unsafe_code")
    [result], _ = rescored(task, tmp_path, "--confirm_run_unsafe_code")
    assert result["task"] == f"{task}_pass5"
    assert result["pass_at_k"] == {"1": pytest.approx(1 / 3), "3": 0.5}
    assert result["outcomes"]["right"] == 2 and result["outcomes"]["no_answer"] == 1


@pytest.mark.parametrize(
    "broken,message",
    [
        ("{broken", "line 2: "),
        ("[1]", "line 2: not a JSON object"),
        ('{"id": 1, "doc": {}}', "line 2: no field 'resps'"),
        ('{"doc": {}, "response": "x"}', "line 2: no field 'doc_id'"),
        ('{"id": 1, "doc": {}, "response": 3}', "line 2: response must be a text"),
        ('{"id": 1, "doc": {}, "resps": [3]}', "line 2: "),
        ('{"id": "1", "doc": {}, "response": "x"}', "line 2: doc must be an object and its id a whole number"),
        ('{"id": true, "doc": {}, "response": "x"}', "line 2: doc must be an object and its id a whole number"),
        ('{"id": 0, "doc": {}, "response": "x"}', "line 2: document 0 appears twice"),
    ],
)
def test_a_broken_line_is_named(broken, message, tmp_path):
    path = tmp_path / "documents.jsonl"
    write_lines(path, [json.dumps({"id": 0, "doc": {}, "response": "#### 1"}), broken])
    with pytest.raises(ValueError, match="documents.jsonl ") as error:
        read_documents(path)
    assert f"{path} {message}" in str(error.value)


def test_nothing_to_score(tmp_path):
    with pytest.raises(ValueError, match="none does not exist"):
        files_of("gsm8k", tmp_path / "none")
    with pytest.raises(ValueError, match=r"holds no documents.jsonl and no samples_<task>.jsonl"):
        files_of("gsm8k", tmp_path)
    write_run(tmp_path, "gsm8k", ["18"])
    with pytest.raises(ValueError, match="no documents of mbpp, only of gsm8k"):
        files_of("mbpp", tmp_path)
    words = ("-m", "evaluation.metrics.humaneval", "--res_path", tmp_path / "documents.jsonl")
    refused(alone(*words, "--confirm_run_unsafe_code"), "right metric")


def test_documents_are_read_in_order(tmp_path):
    path = tmp_path / "documents.jsonl"
    write_lines(path, [json.dumps({"id": i, "doc": {}, "response": str(i)}) for i in (2, 0, 1)])
    assert [document.id for document in read_documents(path)] == [0, 1, 2]


@pytest.mark.parametrize("metric", METRICS)
def test_help(metric):
    done = alone("-m", f"evaluation.metrics.{metric}", "--help")
    assert done.returncode == 0 and f"python -m evaluation.metrics.{metric}" in done.stdout
