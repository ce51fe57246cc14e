"""Reading the samples of a result folder: ours, or those that lm-eval writes with --log_samples.

One JSON object per line: doc_id, doc (the data set's row), response (text, or a list of texts for pass@k), right, outcome,
nfe, tokens (before EOS), seconds, truncated. lm-eval's lines have doc_id, doc and resps.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

_NAME = re.compile(r"samples_(?P<task>.+?)(_\d{4}-\d\d-\d\dT[\d.\-]+)?\.jsonl")


@dataclass(frozen=True)
class Sample:
    """One item of a task: its row, the texts the model wrote for it, and what was recorded with them (None: not)."""

    doc_id: int
    doc: dict
    responses: tuple[str, ...]
    right: bool | None = None
    outcome: str | None = None
    nfe: float | None = None
    tokens: float | None = None
    seconds: float | None = None
    truncated: bool | None = None


def read_samples(path: Path) -> list[Sample]:
    """Samples of a file by doc_id. Raises ValueError naming file, line and what is wrong with it."""
    samples: dict[int, Sample] = {}
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                sample = parse(line)
            except (ValueError, KeyError, TypeError) as error:
                reason = f"no {error}" if isinstance(error, KeyError) else error
                raise ValueError(f"{path} line {number}: {reason}; repair or remove the line") from error
            earlier = samples.setdefault(sample.doc_id, sample)
            if earlier.responses != sample.responses:  # lm-eval repeats an item once per filter, with the same texts
                raise ValueError(f"{path} line {number}: doc_id {sample.doc_id} appears twice with other responses")
    if not samples:
        raise ValueError(f"{path} holds no samples")
    return [samples[doc_id] for doc_id in sorted(samples)]


def parse(line: str) -> Sample:
    """One line as a Sample; KeyError for a missing field, ValueError or TypeError for one that is not what it must be."""
    record = json.loads(line)
    if not isinstance(record, dict):
        raise ValueError("not a JSON object")
    if "response" in record:
        responses = record["response"]
        responses = [responses] if isinstance(responses, str) else responses
    else:
        responses = [text for repeats in record["resps"] for text in repeats]
    if not responses or not all(isinstance(text, str) for text in responses):
        raise ValueError("response must be a text or a list of texts")
    if (
        not isinstance(record["doc"], dict)
        or isinstance(record["doc_id"], bool)
        or not isinstance(record["doc_id"], int)
    ):
        raise ValueError("doc must be an object and doc_id a whole number")
    optional = ("right", "outcome", "nfe", "tokens", "seconds", "truncated")
    recorded = {name: record[name] for name in optional if name in record}
    return Sample(record["doc_id"], record["doc"], tuple(responses), **recorded)


def sample_files(path: Path) -> dict[str, Path]:
    """The samples file of each task under a folder, the newest where lm-eval left several; or one file by itself."""
    if not path.exists():
        raise ValueError(f"{path} does not exist: pass a result folder or a samples file")
    found = sorted(path.rglob("samples_*.jsonl")) if path.is_dir() else [path]
    files = {}
    for file in found:
        named = _NAME.fullmatch(file.name)
        files[named["task"] if named else file.stem] = file
    if not files:
        raise ValueError(f"{path} holds no samples_<task>.jsonl: run the evaluation with --log_samples")
    return files
