"""Comparing results: the command as a user types it."""

import json
import subprocess

import pytest

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


def test_help():
    done = alone("scripts/compare_results.py", "--help")
    assert done.returncode == 0 and "python scripts/compare_results.py" in done.stdout
