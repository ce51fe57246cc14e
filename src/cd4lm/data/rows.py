"""Rows of question and answer: reading and writing them, and the data sets they come from."""

import hashlib
import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from cd4lm.config import require
from cd4lm.data.tiny_task import CHAINS, make_row


def read_jsonl(path: str | Path) -> list[dict]:
    """Rows of a JSON-lines file; a line that is not a JSON object is an error that names its number."""
    rows = []
    with open(path, encoding="utf-8") as file:
        try:
            lines = file.readlines()
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not a UTF-8 text file: pass JSON lines") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} line {number} is not valid JSON ({error.msg}): fix or remove it") from error
        require(isinstance(row, dict), f"{path} line {number} is not an object of columns: fix or remove it")
        rows.append(row)
    return rows


def write_jsonl(path: Path, rows: Iterable[dict]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


@dataclass(frozen=True)
class Source:
    """A data set of the hub: which columns hold question and answer, and how it is split (shares of train).

    default_samples: rows taken when none are asked for, None = all.
    """

    hub_name: str
    subset: str | None
    question: str
    answer: str
    train_share: float
    default_samples: int | None


SOURCES = {
    "gsm8k": Source("openai/gsm8k", "main", "question", "answer", 0.90, None),
    "opencode": Source("nvidia/OpenCodeInstruct", None, "input", "output", 0.95, 200_000),
}
TINY_COUNTS = {"train": 4000, "validation": 500, "test": 2000}


def revision_of(dataset: str, file: str | None) -> str:
    """What pins the source: the hub's commit, or the SHA-256 of a local file; tiny is pinned by our own code."""
    if dataset in CHAINS:
        require(file is None, f"--source does not apply to {dataset}: its problems are generated")
        return "generated"
    if file is not None:
        require(Path(file).is_file(), f"source file {file} does not exist: check --source")
        return hashlib.sha256(Path(file).read_bytes()).hexdigest()
    from huggingface_hub import HfApi  # comes with datasets

    name = SOURCES[dataset].hub_name
    try:
        return HfApi().dataset_info(name).sha
    except Exception as error:  # of whichever HTTP library the hub's client uses
        raise ValueError(
            f"the hub cannot be asked for {name} ({error}): check the network, or pass --source"
        ) from error


def read_source(source: Source, file: str | None, revision: str, limit: int | None) -> Iterator[dict]:
    """Rows {question, answer} of a data set, from the hub (streamed, so that 5M rows cost what is taken) or a file."""
    if file is None:
        from datasets import load_dataset  # slow to import, and not needed for local files

        rows = load_dataset(source.hub_name, source.subset, split="train", streaming=True, revision=revision)
    else:
        rows = read_file(Path(file))
    for number, row in enumerate(islice(rows, limit), start=1):
        for column in (source.question, source.answer):
            require(
                isinstance(row.get(column), str) and row[column].strip() != "",
                f"{file or source.hub_name} row {number} has no text in column {column!r}; it has {sorted(row)}",
            )
        yield {"question": row[source.question], "answer": row[source.answer]}


def read_file(path: Path) -> list[dict] | Iterator[dict]:
    """Rows of a local .jsonl or .parquet file."""
    if path.suffix == ".parquet":
        import pyarrow.parquet  # comes with datasets; only this branch needs it

        batches = pyarrow.parquet.ParquetFile(path).iter_batches()
        return (row for batch in batches for row in batch.to_pylist())
    require(path.suffix in (".jsonl", ".json"), f"source file {path} must be .jsonl or .parquet")
    return read_jsonl(path)


def build_splits(
    dataset: str, file: str | None, revision: str, max_samples: int | None, seed: int
) -> dict[str, list[dict]]:
    """The splits of a data set by name: shuffled with the seed and cut, or generated for the embedded task."""
    if dataset in CHAINS:
        counts = TINY_COUNTS | ({} if max_samples is None else {"train": max_samples})
        return {split: [make_row(split, i, seed, dataset) for i in range(count)] for split, count in counts.items()}
    source = SOURCES[dataset]
    limit = source.default_samples if max_samples is None else max_samples
    rows = list(read_source(source, file, revision, limit))
    require(len(rows) >= 2, f"{dataset} gave {len(rows)} rows: at least 2 are needed to split")
    random.Random(seed).shuffle(rows)
    cut = min(max(round(len(rows) * source.train_share), 1), len(rows) - 1)
    return {"train": rows[:cut], "validation": rows[cut:]}


def digest(rows: Iterable[dict]) -> str:
    """SHA-256 of rows, in order."""
    lines = "\n".join(json.dumps(row, sort_keys=True, ensure_ascii=False) for row in rows)
    return hashlib.sha256(lines.encode()).hexdigest()
