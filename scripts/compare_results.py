"""Compare result folders item by item: the first is the reference, every other one is paired with it.

    python scripts/compare_results.py REFERENCE OTHER [OTHER ...] [--output comparison.json]

Accuracy with its Wilson interval, tokens before EOS per forward, NFE, latency and truncation rate of each folder; against
the reference the paired difference in accuracy with its bootstrap interval, exact McNemar p, and how many times fewer
forward passes and seconds per item. Folders that do not hold the same items are refused.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cd4lm.config import exit_with_message, require
from evaluation.frontier import Estimate, estimate, resample_weights
from evaluation.metrics.rescore import Scoring, judge_samples
from evaluation.metrics.samples import Sample, read_samples, sample_files
from evaluation.metrics.scoring import metric_of
from evaluation.metrics.statistics import mcnemar, wilson

MEASURES = ("nfe", "tokens", "seconds", "truncated")


@dataclass(frozen=True)
class Results:
    """One task of one folder: right (N,) of 0 and 1, and the recorded measures (N,), None where not every item has one."""

    name: str
    right: np.ndarray
    measures: dict[str, np.ndarray | None]


def paired_samples(folders: dict[str, Path]) -> dict[str, dict[str, list[Sample]]]:
    """{task: {folder name: samples}}; raises ValueError naming the first item that the folders do not share."""
    files = {name: sample_files(folder) for name, folder in folders.items()}
    reference = next(iter(folders))
    for name, found in files.items():
        for task in sorted(files[reference].keys() ^ found.keys()):
            has, lacks = (name, reference) if task in found else (reference, name)
            raise ValueError(f"{has} has samples of {task}, {lacks} has none: compare folders of the same tasks")
    tasks = {task: {name: read_samples(files[name][task]) for name in folders} for task in files[reference]}
    for task, samples in tasks.items():
        for name in folders:
            check_paired(task, (reference, samples[reference]), (name, samples[name]))
    return tasks


def check_paired(task: str, a: tuple[str, list[Sample]], b: tuple[str, list[Sample]]) -> None:
    """Raise ValueError unless two folders hold the same rows under the same numbers."""
    rows = [{sample.doc_id: sample.doc for sample in samples} for _, samples in (a, b)]
    for doc_id in sorted(rows[0].keys() | rows[1].keys()):
        for (name, _), own in zip((a, b), rows, strict=True):
            require(doc_id in own, f"{task}: doc_id {doc_id} is missing from {name}; compare runs over the same items")
        require(rows[0][doc_id] == rows[1][doc_id], f"{task}: doc_id {doc_id} is another item in {b[0]} than in {a[0]}")


def results_of(name: str, task: str, samples: list[Sample], scoring: Scoring) -> Results:
    """Right or wrong as recorded, or scored now where a file records none; of several responses one must be right."""
    if all(isinstance(sample.right, bool) for sample in samples):
        right = [float(sample.right) for sample in samples]
    else:
        verdicts = judge_samples(metric_of(task), samples, scoring)
        right = [float(any(v.right for v in item)) for item in verdicts]
    measures = {}
    for measure in MEASURES:
        values = [vars(sample)[measure] for sample in samples]
        measures[measure] = None if None in values else np.array(values, dtype=float)
    return Results(name, np.array(right), measures)


def summarise(results: Results) -> dict:
    """Means of one folder; null where the samples do not record a measure."""
    right, measures = results.right, results.measures
    nfe, tokens = measures["nfe"], measures["tokens"]
    return {
        "items": len(right),
        "accuracy": float(right.mean()),
        "accuracy_95": wilson(int(right.sum()), len(right)),
        "tokens_per_forward": None if nfe is None or tokens is None else float(tokens.sum() / nfe.sum()),
        **{measure: None if values is None else float(values.mean()) for measure, values in measures.items()},
    }


def compare(reference: Results, other: Results, weights: np.ndarray) -> dict:
    """Paired difference other - reference; ratios reference / other of NFE and seconds, above 1 where other needs less."""
    difference = estimate(weights @ (other.right - reference.right))
    compared = {
        "accuracy_difference": interval_of(difference),
        "only_reference_right": int((reference.right > other.right).sum()),
        "only_other_right": int((reference.right < other.right).sum()),
        "mcnemar_p": mcnemar(reference.right > 0, other.right > 0),
    }
    for measure, label in (("nfe", "fewer_nfe"), ("seconds", "faster")):
        a, b = reference.measures[measure], other.measures[measure]
        usable = a is not None and b is not None and b.min() > 0
        compared[label] = interval_of(estimate((weights @ a) / (weights @ b))) if usable else None
    return compared


def interval_of(e: Estimate) -> dict:
    return {"value": e.value, "low": e.low, "high": e.high}


def interval_of_accuracy(summary: dict) -> dict:
    """A folder's accuracy as compared values are given."""
    low, high = summary["accuracy_95"]
    return {"value": summary["accuracy"], "low": low, "high": high}


def number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def spread(e: dict | None, scale: float, form: str) -> str:
    """A value with its interval."""
    if e is None:
        return "-"
    value, low, high = (format(scale * e[name], form) for name in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


HEADER = (
    "folder", "accuracy %", "tokens/forward", "NFE", "seconds", "truncated %", "difference (points)", "McNemar p",
    "x fewer NFE", "x faster",
)  # fmt: skip


def row(name: str, summary: dict, compared: dict | None) -> tuple[str, ...]:
    """One line of the table."""
    truncated = summary["truncated"]
    cells = (
        name,
        spread(interval_of_accuracy(summary), 100, ".1f"),
        number(summary["tokens_per_forward"], ".2f"),
        number(summary["nfe"], ".1f"),
        number(summary["seconds"], ".3g"),
        number(None if truncated is None else 100 * truncated, ".1f"),
    )
    if compared is None:
        return (*cells, "reference", "", "", "")
    return (
        *cells,
        spread(compared["accuracy_difference"], 100, "+.1f"),
        number(compared["mcnemar_p"], ".3g"),
        spread(compared["fewer_nfe"], 1, ".2f"),
        spread(compared["faster"], 1, ".2f"),
    )


def table(rows: list[tuple[str, ...]]) -> str:
    """Lines of a Markdown table with aligned columns."""
    widths = [max(len(line[i]) for line in rows) for i in range(len(rows[0]))]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |" for line in rows]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]])


def names_of(paths: list[Path]) -> dict[str, Path]:
    """Folders by their last part, by the whole path where that is not unique."""
    last = [path.resolve().name for path in paths]
    names = {name if last.count(name) == 1 else str(path): path for name, path in zip(last, paths, strict=True)}
    require(len(names) == len(paths), "the same folder is given twice")
    return names


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="two or more result folders")
    parser.add_argument("--output", type=Path, default=Path("comparison.json"), help="JSON file (comparison.json)")
    parser.add_argument("--resamples", type=int, default=2000, help="of the bootstrap")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    parser.add_argument("--protocol", choices=("default", "published"), default="default", help="where scored now")
    parser.add_argument("--confirm_run_unsafe_code", action="store_true", help="agree to run programs to score them")
    return parser.parse_args()


def main():
    arguments = parse()
    require(len(arguments.folders) > 1, "give two or more result folders: the reference, then those to compare with it")
    require(arguments.resamples > 0, f"--resamples={arguments.resamples} must be positive")
    folders = names_of(arguments.folders)
    scoring = Scoring(arguments.protocol, arguments.confirm_run_unsafe_code)
    report = {}
    for task, samples in paired_samples(folders).items():
        results = [results_of(name, task, samples[name], scoring) for name in folders]
        weights = resample_weights(len(results[0].right), arguments.resamples, arguments.seed)
        summaries = {r.name: summarise(r) for r in results}
        compared = {r.name: compare(results[0], r, weights) for r in results[1:]}
        report[task] = {"reference": results[0].name, "folders": summaries, "compared": compared}
        lines = [row(r.name, summaries[r.name], compared.get(r.name)) for r in results]
        print(f"{task}: {len(results[0].right)} items, 95 % intervals\n{table([HEADER, *lines])}\n")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    partial = arguments.output.with_suffix(arguments.output.suffix + ".partial")
    partial.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n")
    partial.replace(arguments.output)
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    exit_with_message(main)
