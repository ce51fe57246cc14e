"""The data sets that rows come from, and their splits, in which equal questions stay on one side."""

import hashlib
import math
import random
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from cd4lm.config import require
from cd4lm.data import gsm8k_numbers
from cd4lm.data.gsm8k_numbers import NumbersWorld
from cd4lm.data.rows import read_rows, text_of
from cd4lm.data.tiny_task import DEFAULT, World, make_row


@dataclass(frozen=True)
class Source:
    """A data set of the hub: which columns hold question and answer, and how it is split (shares of train).

    hub_name: one data set, or several that are read one after the other, separated by blanks.
    default_samples: rows taken when none are asked for, None = all.
    """

    hub_name: str
    subset: str | None
    question: str
    answer: str
    train_share: float
    default_samples: int | None


BS17K = tuple(f"Lansechen/bs17k_collection_filtered_{part}_maxlength600" for part in ("hard", "easy"))
SOURCES = {
    "gsm8k": Source("openai/gsm8k", "main", "question", "answer", 0.90, None),
    "opencode": Source("nvidia/OpenCodeInstruct", None, "input", "output", 0.95, 200_000),
    # D2F's data; the share is ours. CDLM adds 7.5k mathematics prompts for LLaDA, of which no more is known.
    "bs17k": Source(" ".join(BS17K), None, "question", "qwen7b_answer", 0.95, None),
}
TINY = "tiny"  # the embedded task, whose problems are generated
NUMBERS = "gsm8k_numbers"  # GSM8K's questions with new numbers, from templates
TINY_COUNTS = {"train": 4000, "validation": 500, "test": 2000}


def revision_of(dataset: str, file: str | None) -> str:
    """What pins the source: the hub's commit, or the SHA-256 of a local file; tiny is pinned by our own code,
    gsm8k_numbers by the templates of the package.

    Several hub data sets have a commit each, in their order, separated by blanks.
    """
    if dataset == TINY:
        require(file is None, f"--source does not apply to {dataset}: its problems are generated")
        return "generated"
    if dataset == NUMBERS and file is None:
        file = str(gsm8k_numbers.FILE)
    if file is not None:
        require(not Path(file).is_dir(), f"source file {file} is a folder: pass one of its files")
        require(Path(file).is_file(), f"source file {file} does not exist: check --source")
        return hashlib.sha256(Path(file).read_bytes()).hexdigest()
    from huggingface_hub import HfApi  # comes with datasets

    name = SOURCES[dataset].hub_name
    try:
        return " ".join(HfApi().dataset_info(each).sha for each in name.split())
    except Exception as error:  # of whichever HTTP library the hub's client uses
        raise ValueError(
            f"the hub cannot be asked for {name} ({error}): check the network, or pass --source"
        ) from error


def read_source(source: Source, file: str | None, revision: str, limit: int | None) -> Iterator[dict]:
    """Rows {question, answer} of a data set, from the hub (streamed, so that 5M rows cost what is taken) or a file.

    A number is taken as its digits. Raises ValueError naming the row that lacks a text.
    """
    if file is None:
        from datasets import load_dataset  # slow to import, and not needed for local files

        names = zip(source.hub_name.split(), revision.split(), strict=True)
        parts = (load_dataset(n, source.subset, split="train", streaming=True, revision=r) for n, r in names)
        rows = chain.from_iterable(parts)
    else:
        rows = read_rows(file)
    for number, row in enumerate(islice(rows, limit), start=1):
        try:
            row = {name: str(value) if is_number(value) else value for name, value in row.items()}
            yield {"question": text_of(row, source.question), "answer": text_of(row, source.answer)}
        except ValueError as error:
            raise ValueError(f"{file or source.hub_name} row {number} {error}; fix or remove it") from error


def is_number(value) -> bool:
    """Whether a value is a whole or finite number; True and False are none."""
    return type(value) is int or (type(value) is float and math.isfinite(value))


def build_splits(
    dataset: str,
    file: str | None,
    revision: str,
    max_samples: int | None,
    seed: int,
    world: World | NumbersWorld = DEFAULT,
) -> dict[str, list[dict]]:
    """The splits of a data set by name: shuffled with the seed and cut, or generated (tiny, gsm8k_numbers)."""
    if dataset == TINY:
        counts = TINY_COUNTS | ({} if max_samples is None else {"train": max_samples})
        return {split: [make_row(split, i, seed, world) for i in range(count)] for split, count in counts.items()}
    if dataset == NUMBERS:
        counts = gsm8k_numbers.COUNTS | ({} if max_samples is None else {"train": max_samples})
        questions = gsm8k_numbers.sourced(world, file)[1]
        return {split: questions.rows(split, count, seed) for split, count in counts.items()}
    source = SOURCES[dataset]
    limit = source.default_samples if max_samples is None else max_samples
    rows = list(read_source(source, file, revision, limit))
    require(bool(rows), f"{file or source.hub_name} holds no rows: check the file")
    questions = len({folded(row["question"]) for row in rows})
    require(
        questions >= 2,
        f"{file or source.hub_name} gave {len(rows)} rows with {questions} different questions: at least 2 are needed "
        "to split",
    )
    random.Random(seed).shuffle(rows)
    return dict(zip(("train", "validation"), cut(rows, source.train_share), strict=True))


def cut(rows: list[dict], share: float) -> tuple[list[dict], list[dict]]:
    """The rows of the first `share` of the questions and the others; equal questions stay together, order is kept."""
    place: dict[str, int] = {}
    places = [place.setdefault(folded(row["question"]), len(place)) for row in rows]
    end = min(max(round(len(place) * share), 1), len(place) - 1)
    first = [row for row, i in zip(rows, places, strict=True) if i < end]
    return first, [row for row, i in zip(rows, places, strict=True) if i >= end]


def folded(question: str) -> str:
    """A question as it is compared: without regard to case, spacing and Unicode's compatible forms (NFKC)."""
    return " ".join(unicodedata.normalize("NFKC", question).casefold().split())


def repeated(rows: Iterable[dict]) -> int:
    """How many rows ask a question that an earlier row has asked."""
    questions = [folded(row["question"]) for row in rows]
    return len(questions) - len(set(questions))
