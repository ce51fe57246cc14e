"""Data files as people have them: what is read, and what is refused in one line that names file and row."""

import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest

from cd4lm.data.rows import read_jsonl, read_rows
from cd4lm.data.splits import build_splits, cut, folded, repeated
from scripts import prepare_data
from tests.conftest import ROOT

INPUTS = ROOT / "tests/fixtures/inputs"
ROWS = [{"question": f"é\u2028 ‘{i}’, how\nmany?", "answer": f"work; {i}\n#### {i}"} for i in range(6)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
TABLE = "question,answer\n" + "".join(f'"{row["question"]}","{row["answer"]}"\n' for row in ROWS)
SEMICOLONS = TABLE.replace("question,answer", "question;answer").replace('","', '";"')


@pytest.mark.parametrize(
    "name,data",
    {
        "rows.jsonl": LINES.encode(),
        "crlf.jsonl": LINES.replace("\n", "\r\n").encode(),
        "blank_lines.jsonl": ("\n\n" + LINES.replace("\n", "\n\n")).encode(),
        "bom.jsonl": b"\xef\xbb\xbf" + LINES.encode(),
        "utf_16.jsonl": LINES.encode("utf-16"),
        "list.json": json.dumps(ROWS, indent=1).encode(),
        "list.jsonl": json.dumps(ROWS).encode(),
        "rows.jsonl.gz": gzip.compress(LINES.encode()),
        "packed_unsaid.jsonl": gzip.compress(LINES.encode()),
        "table.csv": TABLE.encode(),
        "excel.csv": b"\xef\xbb\xbf" + SEMICOLONS.encode(),
        "table.tsv": TABLE.replace(",answer", "\tanswer").replace('","', '"\t"').encode(),
        "table.csv.gz": gzip.compress(TABLE.encode()),
    }.items(),
)
def test_the_same_rows_from_every_format(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    assert list(read_rows(tmp_path / name)) == ROWS


@pytest.mark.parametrize("name", ["rows.parquet", "parquet_unsaid.jsonl"])
def test_parquet(tmp_path, name):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / name)
    assert list(read_rows(tmp_path / name)) == ROWS


@pytest.mark.parametrize(
    "name,data,message",
    [
        ("rows.txt", LINES.encode(), "must be one of .jsonl, .json, .csv, .tsv, .parquet: rename or convert it"),
        ("page.jsonl", b"<!DOCTYPE html>", "is a web page, not data: download it again"),
        ("latin.jsonl", '{"a": "b"}\n{"a": "é"}\n'.encode("latin-1"), "is not a UTF-8 text file .line 2."),
        ("cut.jsonl", LINES.encode()[:-9], "line 6 is not valid JSON"),
        ("text.jsonl", b'"a"\n', "line 1 is not an object of columns"),
        ("deep.jsonl", b"[" * 100_000, "is not valid JSON"),
        ("digits.jsonl", b'{"a": ' + b"9" * 5000 + b"}", "line 1 is not valid JSON .Exceeds the limit"),
        ("cut.jsonl.gz", gzip.compress(LINES.encode())[:-20], "is damaged or truncated"),
        ("noise.jsonl.gz", b"\x1f\x8bnoise" * 9, "is damaged or truncated"),
        ("packed.jsonl", b"PK\x03\x04", "is a zip archive: unpack"),
        ("rows.parquet", b"PAR1", "is no readable parquet file"),
        ("ragged.csv", b"a,b\n1,2\n1,2,3\n", "row 2 has 3 cells for 2 columns"),
        ("open.csv", b'a,b\n"1,2\n', "is not a readable table"),
        ("unclear.csv", b"a;b,c\n", "has no clear separator in its first line"),
        ("twice.csv", b"a,a\n1,2\n", "needs a first line of different column names"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=f"{name}.*{message}") as caught:
        list(read_rows(tmp_path / name))
    assert "\n" not in str(caught.value)


def prepare(run_main, source, folder) -> tuple[str | None, str]:
    return run_main(prepare_data.main, "--dataset", "gsm8k", "--source", source, "--output_dir", folder)


@pytest.mark.parametrize("name", ["F15_array.json", "F15_bom_train.jsonl", "F17_numeric_answers.jsonl"])
def test_inputs_that_are_read(run_main, tmp_path, name):
    said, printed = prepare(run_main, INPUTS / name, tmp_path / "out")
    assert said is None and "9 train, 1 validation" in printed
    rows = [row for split in ("train", "validation") for row in read_jsonl(tmp_path / f"out/{split}.jsonl")]
    assert all(isinstance(text, str) for row in rows for text in row.values())
    if "numeric" in name:
        assert sorted(row["answer"] for row in rows) == [str(i) for i in range(10)]


@pytest.mark.parametrize(
    "name,message",
    [
        ("F17_lfs.parquet", "F17_lfs.parquet is a Git LFS pointer"),
        ("F17_lone_surrogate.jsonl", r"F17_lone_surrogate.jsonl line 1 holds \ud83d, half of a character"),
        ("F18_empty_file/gsm8k/test.jsonl", "test.jsonl holds no rows"),
        ("F18_missing_column/gsm8k/test.jsonl", "test.jsonl row 1 has no text in column 'answer'"),
    ],
)
def test_inputs_that_are_refused(refused, tmp_path, name, message):
    words = ("--dataset", "gsm8k", "--source", INPUTS / name, "--output_dir", tmp_path / "out")
    refused(prepare_data.main, message, *words)
    assert list(tmp_path.iterdir()) == []


def test_equal_questions_stay_on_one_side_and_are_counted(run_main, tmp_path):
    said, printed = prepare(run_main, INPUTS / "F16_duplicates.jsonl", tmp_path / "out")
    assert said is None and "10 rows repeat a question" in printed
    train, validation = (read_jsonl(tmp_path / f"out/{split}.jsonl") for split in ("train", "validation"))
    assert (len(train), len(validation)) == (18, 2)
    assert not {row["question"] for row in train} & {row["question"] for row in validation}
    assert json.loads((tmp_path / "out/manifest.json").read_text())["repeated_questions"] == 10


def test_equal_but_for_case_spacing_and_compatible_forms():
    same = ("How many?", " how  MANY?\n", "How\u00a0many?", "Ｈow many?")
    assert len(set(map(folded, same))) == 1 and folded("How many") != folded("How many?")
    rows = [{"question": question} for question in (*same, "a", "b", "c")]
    first, rest = cut(rows, 0.5)
    assert (first, rest) == (rows[:5], rows[5:]) and repeated(rows) == 3


def test_a_file_without_repeated_questions_is_cut_as_rows_are(tmp_path):
    (tmp_path / "rows.jsonl").write_text(LINES)
    splits = build_splits("gsm8k", str(tmp_path / "rows.jsonl"), "r", None, seed=1)
    assert [len(rows) for rows in splits.values()] == [5, 1] and repeated(ROWS) == 0
