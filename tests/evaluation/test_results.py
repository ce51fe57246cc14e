"""Samples files, re-scoring and comparing them: the commands as a user types them."""

import json
import subprocess

import pytest

from evaluation.metrics.samples import read_samples, sample_files
from tests.command_line import alone, refused
from tests.evaluation.benchmarks import gold, rows_of


def line(task: str, i: int, response, **recorded) -> str:
    return json.dumps({"doc_id": i, "doc": rows_of(task)[i], "response": response} | recorded)


def write(path, lines) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def gsm8k_folder(folder, right: list[bool], nfe: int = 10, **recorded) -> None:
    lines = []
    for i, is_right in enumerate(right):
        text = gold("gsm8k", rows_of("gsm8k")[i]) if is_right else "I do not know."
        measured = {"nfe": nfe + i, "tokens": 20, "seconds": nfe / 10, "truncated": False}
        lines.append(line("gsm8k", i, text, right=is_right, outcome="-", **measured | recorded))
    write(folder / "samples_gsm8k.jsonl", lines)


def test_rescoring(tmp_path):
    gsm8k_folder(tmp_path, [True] * 6 + [False] * 4)
    done = alone("evaluation/metrics/gsm8k.py", "--res_path", tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])["gsm8k"]
    assert result["accuracy"] == 0.6 and result["differs_from_recorded"] == 0
    assert result["outcomes"] == {"right": 6, "wrong": 0, "no_answer": 4, "timeout": 0, "error": 0}
    assert result["accuracy_95"] == pytest.approx([0.3127, 0.8318], abs=1e-4)
    assert "60.0 % [31.3, 83.2] of 10 items" in done.stdout


def test_rescoring_lm_evals_own_samples(tmp_path):
    lines = [
        json.dumps(
            {"doc_id": i, "doc": row, "resps": [[gold("math500", row)]], "filter": name, "target": row["answer"]}
        )
        for name in ("strict", "flexible")
        for i, row in enumerate(rows_of("math500"))
    ]
    write(tmp_path / "model/samples_math500_2026-01-01T00-00-00.000001.jsonl", lines)
    done = alone("evaluation/metrics/math500.py", "--res_path", tmp_path, "--protocol", "published")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["math500"]["items"] == len(rows_of("math500"))


@pytest.mark.parametrize("task", ["humaneval", "mbpp"])
def test_pass_at_k_of_programs(task, tmp_path):
    right, wrong = gold(task, rows_of(task)[0]), "```python\nx = 1\n```"
    lines = [line(task, 0, [right, wrong, right]), line(task, 1, [wrong, wrong, "nothing here"])]
    write(tmp_path / f"samples_{task}_pass5.jsonl", lines)
    script = f"evaluation/metrics/{task}.py"
    refused(alone(script, "--res_path", tmp_path), "--confirm_run_unsafe_code")
    done = alone(script, "--res_path", tmp_path, "--confirm_run_unsafe_code")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])[f"{task}_pass5"]
    assert result["pass_at_k"] == {"1": pytest.approx(1 / 3), "3": 0.5}
    assert result["outcomes"]["right"] == 2 and result["outcomes"]["no_answer"] == 1


@pytest.mark.parametrize(
    "broken,message",
    [
        ("{broken", "line 2: "),
        ("[1]", "line 2: not a JSON object"),
        ('{"doc_id": 1, "doc": {}}', "line 2: no 'resps'"),
        ('{"doc_id": 1, "doc": {}, "response": 3}', "line 2: "),
        ('{"doc_id": "1", "doc": {}, "response": "x"}', "line 2: doc must be an object and doc_id a whole number"),
        ('{"doc_id": 0, "doc": {}, "response": "x"}', "line 2: doc_id 0 appears twice"),
    ],
)
def test_a_broken_line_is_named(broken, message, tmp_path):
    write(tmp_path / "samples_gsm8k.jsonl", [line("gsm8k", 0, "#### 1"), broken])
    refused(alone("evaluation/metrics/gsm8k.py", "--res_path", tmp_path), f"samples_gsm8k.jsonl {message}")


def test_nothing_to_score(tmp_path):
    refused(alone("evaluation/metrics/gsm8k.py", "--res_path", tmp_path / "none"), "none does not exist")
    refused(alone("evaluation/metrics/gsm8k.py", "--res_path", tmp_path), "holds no samples_<task>.jsonl")
    gsm8k_folder(tmp_path, [True])
    refused(alone("evaluation/metrics/mbpp.py", "--res_path", tmp_path), "no samples of mbpp, only of gsm8k")
    file = tmp_path / "samples_gsm8k.jsonl"
    refused(alone("evaluation/metrics/humaneval.py", "--res_path", file, "--confirm_run_unsafe_code"), "right metric")


def test_samples_are_read_in_order_and_the_newest_file_counts(tmp_path):
    for date, text in (("2026-01-02T00-00-00", "new"), ("2026-01-01T00-00-00", "old")):
        lines = [line("gsm8k", i, text) for i in (2, 0, 1)]
        write(tmp_path / f"samples_gsm8k_{date}.jsonl", lines)
    samples = read_samples(sample_files(tmp_path)["gsm8k"])
    assert [s.doc_id for s in samples] == [0, 1, 2] and samples[0].responses == ("new",)
    assert samples[0].right is None and samples[0].nfe is None


def compare(tmp_path, *words) -> subprocess.CompletedProcess:
    return alone("scripts/compare_results.py", tmp_path / "a", tmp_path / "b", "--output", tmp_path / "c.json", *words)


def test_comparison(tmp_path):
    gsm8k_folder(tmp_path / "a", [True] * 8 + [False] * 2, nfe=40)
    gsm8k_folder(tmp_path / "b", [False] * 5 + [True] * 4 + [False], nfe=10)
    done = compare(tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "c.json").read_text())["gsm8k"]
    b = result["compared"]["b"]
    assert (b["only_reference_right"], b["only_other_right"]) == (5, 1)
    assert b["mcnemar_p"] == pytest.approx(2 * 7 / 64)
    assert b["accuracy_difference"]["value"] == pytest.approx(-0.4)
    assert b["accuracy_difference"]["low"] < -0.4 < b["accuracy_difference"]["high"]
    assert b["fewer_nfe"]["value"] == pytest.approx(44.5 / 14.5) and b["faster"]["value"] == pytest.approx(4)
    assert result["folders"]["a"]["tokens_per_forward"] == pytest.approx(20 / 44.5)
    assert "-40.0 [" in done.stdout and "reference" in done.stdout
    again = (tmp_path / "c.json").read_bytes()
    assert compare(tmp_path).returncode == 0 and (tmp_path / "c.json").read_bytes() == again


def test_unpaired_folders_are_refused(tmp_path):
    gsm8k_folder(tmp_path / "a", [True] * 5)
    gsm8k_folder(tmp_path / "b", [True] * 4)
    refused(compare(tmp_path), "gsm8k: doc_id 4 is missing from b")
    other = [json.loads(text) for text in (tmp_path / "a/samples_gsm8k.jsonl").read_text().splitlines()]
    other[3]["doc"] = other[2]["doc"]
    write(tmp_path / "b/samples_gsm8k.jsonl", map(json.dumps, other))
    refused(compare(tmp_path), "gsm8k: doc_id 3 is another item in b than in a")
    write(tmp_path / "b/samples_math500.jsonl", [line("math500", 0, "x", right=True)])
    refused(compare(tmp_path), "b has samples of math500, a has none")
    refused(alone("scripts/compare_results.py", tmp_path / "a"), "two or more result folders")
    refused(alone("scripts/compare_results.py", tmp_path / "a", tmp_path / "a"), "given twice")
    assert not (tmp_path / "c.json").exists()


def test_samples_that_record_no_score_are_scored(tmp_path):
    for folder in ("a", "b"):
        rows = rows_of("gsm8k")
        lines = [json.dumps({"doc_id": i, "doc": row, "resps": [[row["answer"]]]}) for i, row in enumerate(rows)]
        write(tmp_path / folder / "samples_gsm8k_2026-01-01T00-00-00.jsonl", lines)
    done = compare(tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "c.json").read_text())["gsm8k"]
    assert result["folders"]["b"]["accuracy"] == 1.0 and result["folders"]["b"]["nfe"] is None
    assert result["compared"]["b"]["fewer_nfe"] is None


@pytest.mark.parametrize("script", ["evaluation/metrics/gsm8k.py", "evaluation/metrics/math500.py", "evaluation/metrics/humaneval.py", "evaluation/metrics/mbpp.py", "scripts/compare_results.py"])  # fmt: skip
def test_help(script):
    done = alone(script, "--help")
    assert done.returncode == 0 and f"python {script}" in done.stdout
