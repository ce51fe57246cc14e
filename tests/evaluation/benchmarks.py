"""Rows of the benchmarks and responses that hold their gold answers."""

import os
from pathlib import Path

import pytest

from cd4lm.data.rows import read_jsonl
from tests.conftest import ROOT

SLICES = ROOT / "tests/fixtures/benchmarks"
# The whole files, as published; they are not part of the repository.
WHOLE = Path(os.environ.get("BENCHMARK_DATA", ROOT.parent / "shared/data"))
FILES = {"gsm8k": "gsm8k/test", "math500": "math500/test", "humaneval": "humaneval/test", "mbpp": "mbpp/all"}


def rows_of(task: str) -> list[dict]:
    """The rows that come with the repository."""
    return read_jsonl(SLICES / f"{task}.jsonl")


def whole(task: str) -> list[dict]:
    """All rows of a test split; skips the test where they are not at hand."""
    path = WHOLE / f"{FILES[task]}.jsonl"
    if not path.is_file():
        pytest.skip(f"{path} is not there: set BENCHMARK_DATA to a folder with the published files")
    rows = read_jsonl(path)
    return [row for row in rows if 11 <= row["task_id"] <= 510] if task == "mbpp" else rows


def fenced(code: str) -> str:
    return f"<reasoning>\nsteps\n</reasoning>\n<answer>\n```python\n{code}\n```\n</answer>"


def gold(task: str, row: dict) -> str:
    """The response that a model with the row's own answer would give."""
    if task == "gsm8k":
        reasoning, _, answer = row["answer"].partition("####")
        return f"<reasoning>\n{reasoning}</reasoning>\n<answer>\n\\boxed{{{answer.strip()}}}\n</answer>"
    if task == "math500":
        return f"<reasoning>\n{row['solution']}\n</reasoning>\n<answer>\n\\boxed{{{row['answer']}}}\n</answer>"
    return fenced(row["prompt"] + row["canonical_solution"] if task == "humaneval" else row["code"])
