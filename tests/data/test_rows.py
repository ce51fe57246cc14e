"""Reading and splitting rows, and the command that prepares them."""

import json
from dataclasses import replace

import pyarrow
import pyarrow.parquet
import pytest

from cd4lm.data.rows import read_jsonl
from cd4lm.data.splits import SOURCES, Source, build_splits, read_source
from tests.command_line import command
from tests.conftest import ROOT


def prepare(*options):
    return command("scripts/prepare_data.py", *options)


def gsm8k_file(folder, count: int = 20):
    rows = [{"question": f"question {i}", "answer": f"work\n#### {i}"} for i in range(count)]
    path = folder / "source.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_broken_line_is_named_by_number(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question": "a", "answer": "b"}\n{"question": \n')
    with pytest.raises(ValueError, match="line 2 is not valid JSON"):
        read_jsonl(path)
    path.write_text("[1]\n")
    with pytest.raises(ValueError, match="row 1 is not an object"):
        read_jsonl(path)


def test_gsm8k_is_split_90_10_with_the_seed(tmp_path):
    path = gsm8k_file(tmp_path)
    splits = build_splits("gsm8k", str(path), "r", None, seed=42)
    assert [len(splits[s]) for s in ("train", "validation")] == [18, 2]
    assert splits == build_splits("gsm8k", str(path), "r", None, seed=42)
    assert splits != build_splits("gsm8k", str(path), "r", None, seed=43)
    everything = sorted(row["question"] for rows in splits.values() for row in rows)
    assert everything == sorted(row["question"] for row in read_jsonl(path))


def test_opencode_maps_its_columns_and_reads_parquet(tmp_path):
    table = pyarrow.table(
        {"input": [f"write {i}" for i in range(40)], "output": ["def f(): pass"] * 40, "id": list(range(40))}
    )
    pyarrow.parquet.write_table(table, tmp_path / "part.parquet")
    splits = build_splits("opencode", str(tmp_path / "part.parquet"), "r", 20, seed=42)
    assert [len(splits[s]) for s in ("train", "validation")] == [19, 1]
    assert splits["train"][0].keys() == {"question", "answer"} and splits["train"][0]["answer"] == "def f(): pass"


def test_the_hub_path_streams_and_takes_only_what_is_asked_for(tmp_path):
    """load_dataset itself, on a folder in the hub's layout."""
    table = pyarrow.table({"input": [f"task {i}" for i in range(50)], "output": ["x"] * 50})
    (tmp_path / "data").mkdir()
    pyarrow.parquet.write_table(table, tmp_path / "data/train-00000-of-00001.parquet")
    source = Source(str(tmp_path), None, "input", "output", 0.95, None)
    rows = list(read_source(source, None, "main", 7))
    assert rows == [{"question": f"task {i}", "answer": "x"} for i in range(7)]


def bs17k_rows(part: str, count: int) -> list[dict]:
    return [{"question": f"{part} {i} ?", "qwen7b_answer": f"so {i}", "answer": "unused"} for i in range(count)]


def test_bs17k_is_both_parts_one_after_the_other(tmp_path):
    """load_dataset itself, on two folders in the hub's layout."""
    for part, count in (("hard", 4), ("easy", 3)):
        (tmp_path / part).mkdir()
        pyarrow.parquet.write_table(
            pyarrow.Table.from_pylist(bs17k_rows(part, count)), tmp_path / part / "train.parquet"
        )
    source = replace(SOURCES["bs17k"], hub_name=f"{tmp_path}/hard {tmp_path}/easy")
    rows = list(read_source(source, None, "main main", None))
    wanted = [*(f"hard {i} ?" for i in range(4)), *(f"easy {i} ?" for i in range(3))]
    assert [row["question"] for row in rows] == wanted and rows[5] == {"question": "easy 1 ?", "answer": "so 1"}
    assert list(read_source(source, None, "main main", 5)) == rows[:5]
    assert len(SOURCES["bs17k"].hub_name.split()) == 2


def test_bs17k_from_a_local_file(tmp_path):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in bs17k_rows("hard", 40)))
    out = tmp_path / "out"
    done = prepare("--dataset", "bs17k", "--source", tmp_path / "rows.jsonl", "--output_dir", out)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["counts"] == {"train": 38, "validation": 2} and manifest["dataset"] == "bs17k"
    assert all(row["answer"].startswith("so ") for row in read_jsonl(out / "train.jsonl"))
    (tmp_path / "other.jsonl").write_text('{"question": "a", "answer": "b"}\n')
    with pytest.raises(ValueError, match="row 1 has no text in column 'qwen7b_answer'"):
        build_splits("bs17k", str(tmp_path / "other.jsonl"), "r", None, seed=42)


def test_a_missing_column_is_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question": "a", "reply": "b"}\n')
    with pytest.raises(ValueError, match="row 1 has no text in column 'answer', its columns are 'question', 'reply'"):
        build_splits("gsm8k", str(path), "r", None, seed=42)


def test_command_writes_splits_and_manifest(tmp_path):
    out = tmp_path / "out"
    done = prepare("--dataset", "gsm8k", "--source", gsm8k_file(tmp_path), "--output_dir", out, "--max_samples", 10)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["counts"] == {"train": 9, "validation": 1}
    assert len(manifest["revision"]) == 64 and set(manifest["sha256"]) == {"train", "validation"}
    again = prepare("--dataset", "gsm8k", "--source", gsm8k_file(tmp_path), "--output_dir", out)
    assert again.returncode == 1 and "already holds a prepared data set" in again.stderr


@pytest.mark.parametrize(
    "options,message",
    [
        (("--dataset", "gsm8k", "--source", "nowhere.jsonl"), "nowhere.jsonl does not exist"),
        (("--dataset", "tiny", "--source", "x.jsonl"), "--source does not apply"),
        (("--dataset", "tiny", "--answers", "teacher"), "needs --teacher"),
        (("--dataset", "tiny", "--answers", "teacher", "--teacher", "/nowhere"), "/nowhere does not exist"),
    ],
)
def test_command_refuses_in_one_line_and_leaves_nothing(tmp_path, options, message):
    done = prepare(*options, "--output_dir", tmp_path / "out")
    assert done.returncode == 1 and message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_command_leaves_a_folder_with_other_files_alone(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("keep")
    done = prepare("--dataset", "tiny", "--max_samples", 3, "--output_dir", tmp_path / "out")
    assert done.returncode == 1 and "holds files but no manifest.json" in done.stderr
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine.txt"]
    assert not (tmp_path / "out.partial").exists()


def test_the_published_gsm8k_split(tmp_path):
    source = ROOT.parent / "shared/data/gsm8k/train.jsonl"
    if not source.is_file():
        pytest.skip("the GSM8K file is not on this machine")
    splits = build_splits("gsm8k", str(source), "r", None, seed=42)
    assert [len(splits[s]) for s in ("train", "validation")] == [6726, 747]
