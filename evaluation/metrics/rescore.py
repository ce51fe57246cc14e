"""Scoring the responses of a finished run again, as each metric's command does.

Reads documents.jsonl of runs (evaluation/run.py: id, doc, response, right) and the samples_<task>_<time>.jsonl that lm-eval
writes with --log_samples (doc_id, doc, resps).
"""

import argparse
import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from cd4lm.config import CommandParser, exit_with_message, require
from evaluation.intervals import estimate, pass_at_k, resample, wilson
from evaluation.metrics.scoring import RUNS_CODE, check_rows, judge_all
from evaluation.metrics.verdict import OUTCOMES, PROTOCOLS, RIGHT, SANDBOXES, Scoring, Verdict

_NAME = re.compile(r"samples_(dllm_)?(?P<task>.+?)(_\d{4}-\d\d-\d\dT[\d.\-]+)?\.jsonl")


@dataclass(frozen=True)
class Document:
    """One row with the texts the model wrote for it; right: what the run recorded, None where it recorded nothing."""

    id: int
    row: dict
    responses: tuple[str, ...]
    right: bool | None


def read_documents(path: Path) -> list[Document]:
    """Documents of a file by id. Raises ValueError naming file, line and what is wrong with it."""
    documents: dict[int, Document] = {}
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                document = parse(line)
            except (ValueError, KeyError, TypeError) as error:
                reason = f"no field {error}" if isinstance(error, KeyError) else error
                raise ValueError(f"{path} line {number}: {reason}; repair or remove the line") from error
            earlier = documents.setdefault(document.id, document)  # lm-eval repeats a document for each of its filters
            same = earlier.responses == document.responses
            require(same, f"{path} line {number}: document {document.id} appears twice with other responses")
    require(bool(documents), f"{path} holds no documents")
    return [documents[i] for i in sorted(documents)]


def parse(line: str) -> Document:
    """One line as a Document. KeyError for a missing field, ValueError or TypeError for one that is not what it must be."""
    record = json.loads(line)
    require(isinstance(record, dict), "not a JSON object")
    index, row = record["id" if "id" in record else "doc_id"], record["doc"]
    require(type(index) is int and isinstance(row, dict), "doc must be an object and its id a whole number")
    responses = record["response"] if "response" in record else [text for item in record["resps"] for text in item]
    responses = [responses] if isinstance(responses, str) else responses
    texts = isinstance(responses, list) and responses and all(isinstance(text, str) for text in responses)
    require(bool(texts), "response must be a text or a list of texts")
    return Document(index, row, tuple(responses), record.get("right"))


def task_of(file: Path) -> str | None:
    """The task whose documents a file holds, None if neither run.json nor the file's name says."""
    about = file.with_name("run.json")
    if file.name == "documents.jsonl" and about.is_file():
        return json.loads(about.read_text())["task"].removeprefix("dllm_")
    named = _NAME.fullmatch(file.name)
    return named["task"] if named else None


def files_of(metric: str, path: Path) -> dict[Path, str]:
    """Files with documents of a metric's tasks, with the task of each. Raises ValueError if there are none."""
    require(path.exists(), f"{path} does not exist: pass the folder of a run, or a file of documents")
    if path.is_file():
        return {path: task_of(path) or metric}
    found = [*sorted(path.rglob("documents.jsonl")), *sorted(path.rglob("samples_*.jsonl"))]
    tasks = {file: task_of(file) or metric for file in found}
    require(bool(tasks), f"{path} holds no documents.jsonl and no samples_<task>.jsonl: finish that evaluation first")
    chosen = {file: task for file, task in tasks.items() if task.split("_")[0] == metric}
    require(bool(chosen), f"{path} holds no documents of {metric}, only of {', '.join(sorted(set(tasks.values())))}")
    return chosen


def judge_documents(task: str, documents: list[Document], scoring: Scoring) -> list[list[Verdict]]:
    """Verdicts of every response of every document."""
    pairs = [(document.row, text) for document in documents for text in document.responses]
    verdicts = iter(list(tqdm(judge_all(task, pairs, scoring), task, len(pairs), disable=None)))
    return [[next(verdicts) for _ in document.responses] for document in documents]


def summarise(documents: list[Document], verdicts: list[list[Verdict]]) -> dict:
    """Accuracy with its 95 % interval (Wilson's; a bootstrap where documents have several responses), outcomes, pass@k."""
    counts = [(len(item), sum(v.right for v in item)) for item in verdicts]
    outcomes = Counter(v.outcome for item in verdicts for v in item)
    shares = np.array([right / n for n, right in counts])
    mean = estimate(resample(lambda column: column.mean(axis=-1), shares))
    single = all(n == 1 for n, _ in counts)
    interval = wilson(outcomes[RIGHT], len(counts)) if single else (mean.low, mean.high)
    pass_at = {k: [pass_at_k(n, right, k) for n, right in counts] for k in sorted({1, min(n for n, _ in counts)})}
    recorded = [(d.right, right > 0) for d, (_, right) in zip(documents, counts, strict=True) if d.right is not None]
    return {
        "documents": len(documents),
        "accuracy": mean.value,
        "accuracy_95": interval,
        "pass_at_k": {str(k): sum(shares) / len(shares) for k, shares in pass_at.items()},
        "outcomes": {outcome: outcomes[outcome] for outcome in OUTCOMES},
        "differs_from_recorded": sum(before != now for before, now in recorded) if recorded else None,
    }


def describe(task: str, protocol: str, summary: dict) -> str:
    """A summary for people."""
    value, low, high = (100 * share for share in (summary["accuracy"], *summary["accuracy_95"]))
    first = f"{task} ({protocol} protocol): {value:.1f} % [{low:.1f}, {high:.1f}] of {summary['documents']} documents"
    parts = [f"{count} {name}" for name, count in summary["outcomes"].items()]
    parts += [f"pass@{k} {100 * share:.1f} %" for k, share in summary["pass_at_k"].items() if k != "1"]
    if summary["differs_from_recorded"]:
        parts.append(f"{summary['differs_from_recorded']} documents scored differently from what the file records")
    return f"{first}\n  {', '.join(parts)}"


def rescore(metric: str, arguments: argparse.Namespace) -> None:
    """Print a summary per file, then everything as one line of JSON."""
    consent = metric in RUNS_CODE and arguments.confirm_run_unsafe_code
    sandbox = arguments.sandbox if metric in RUNS_CODE else "bubblewrap"
    scoring = Scoring(arguments.protocol, consent, sandbox, arguments.workers)
    results = {}
    for file, task in files_of(metric, arguments.res_path).items():
        documents = read_documents(file)
        rows = ((f"{file} document {document.id}", document.row) for document in documents)
        check_rows(metric, rows, "repair it, or use the right metric")
        summary = summarise(documents, judge_documents(metric, documents, scoring))
        print(describe(task, scoring.protocol, summary))
        results[str(file)] = {"task": task, "protocol": scoring.protocol} | summary
    print(json.dumps(results))


def command(metric: str, description: str) -> None:
    """The command line of a metric."""
    parser = CommandParser(description)
    parser.add_argument("--res_path", type=Path, required=True, help="folder of a run, or a file of documents")
    parser.add_argument("--protocol", choices=PROTOCOLS, default="default")
    parser.add_argument("--workers", type=int, default=2, help="programs that run at a time")
    if metric in RUNS_CODE:
        parser.add_argument("--confirm_run_unsafe_code", action="store_true", help="agree to run generated programs")
        parser.add_argument("--sandbox", choices=SANDBOXES, default="bubblewrap", help="none: inside a container only")
    exit_with_message(lambda: rescore(metric, parser.parse_args()))
