"""Scoring a samples file or result folder again, as each metric's command does."""

import argparse
import json
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from evaluation.metrics.samples import Sample, read_samples, sample_files
from evaluation.metrics.sandbox import SandboxError
from evaluation.metrics.scoring import METRICS, RUNS_CODE, judge_all
from evaluation.metrics.statistics import mean_interval, pass_at_k, wilson
from evaluation.metrics.verdict import OUTCOMES, PROTOCOLS, Verdict


@dataclass(frozen=True)
class Scoring:
    """How to score: protocol, consent to run generated code, and how many programs run at a time."""

    protocol: str = "default"
    confirm_run_unsafe_code: bool = False
    workers: int = 2


def judge_samples(metric: str, samples: list[Sample], scoring: Scoring) -> list[list[Verdict]]:
    """Verdicts of every response of every sample."""
    pairs = [(sample.doc, text) for sample in samples for text in sample.responses]
    verdicts = []
    for verdict in judge_all(metric, pairs, **vars(scoring)):
        verdicts.append(verdict)
        if sys.stderr.isatty():
            right = sum(v.right for v in verdicts) / len(verdicts)
            print(f"\r{metric} {len(verdicts)}/{len(pairs)} right {right:.1%}", end="", file=sys.stderr)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    remaining = iter(verdicts)
    return [[next(remaining) for _ in sample.responses] for sample in samples]


def summarise(samples: list[Sample], verdicts: list[list[Verdict]]) -> dict:
    """Accuracy with its 95 % interval (Wilson; of the mean where items have several responses), outcomes, pass@k."""
    counts = [(len(item), sum(v.right for v in item)) for item in verdicts]
    outcomes = Counter(v.outcome for item in verdicts for v in item)
    shares = [right / n for n, right in counts]
    single = all(n == 1 for n, _ in counts)
    right = sum(right for _, right in counts)
    recorded = [
        (s.right, item[0].right) for s, item in zip(samples, verdicts, strict=True) if isinstance(s.right, bool)
    ]
    return {
        "items": len(samples),
        "accuracy": sum(shares) / len(shares),
        "accuracy_95": wilson(right, len(samples)) if single else mean_interval(shares),
        "pass_at_k": {
            str(k): sum(pass_at_k(n, right, k) for n, right in counts) / len(counts)
            for k in sorted({1, min(n for n, _ in counts)})
        },
        "outcomes": {outcome: outcomes[outcome] for outcome in OUTCOMES},
        "differs_from_recorded": sum(a != b for a, b in recorded) if single and recorded else None,
    }


def describe(task: str, protocol: str, summary: dict) -> str:
    """A summary for people."""
    low, high = (100 * bound for bound in summary["accuracy_95"])
    outcomes = summary["outcomes"]
    lines = [
        f"{task} ({protocol} protocol): {100 * summary['accuracy']:.1f} % [{low:.1f}, {high:.1f}] of {summary['items']} items",
        "  " + ", ".join(f"{count} {name}" for name, count in outcomes.items()),
    ]
    if len(summary["pass_at_k"]) > 1:
        lines.append("  " + ", ".join(f"pass@{k} {100 * v:.1f} %" for k, v in summary["pass_at_k"].items()))
    if summary["differs_from_recorded"]:
        lines.append(f"  {summary['differs_from_recorded']} items are scored differently from what the file records")
    return "\n".join(lines)


def files_of(metric: str, path: Path) -> dict[str, Path]:
    """The samples files of a metric's tasks. Raises ValueError if there are none."""
    files = sample_files(path)
    if path.is_file():
        return files
    chosen = {task: file for task, file in files.items() if task.split("_")[0] == metric}
    if not chosen:
        raise ValueError(f"{path} holds no samples of {metric}, only of {', '.join(files)}")
    return chosen


def run(metric: str, arguments: argparse.Namespace) -> None:
    scoring = Scoring(arguments.protocol, metric in RUNS_CODE and arguments.confirm_run_unsafe_code, arguments.workers)
    results = {}
    for task, file in files_of(metric, arguments.res_path).items():
        samples = read_samples(file)
        summary = summarise(samples, judge_samples(metric, samples, scoring))
        results[task] = {"file": str(file), "protocol": scoring.protocol} | summary
        print(describe(task, scoring.protocol, summary))
    print(json.dumps(results))


def command(metric: str, description: str) -> None:
    """A metric's command line: print a summary per task, then everything as one line of JSON."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--res_path", type=Path, required=True, help="result folder or samples file (JSON lines)")
    parser.add_argument("--protocol", choices=PROTOCOLS, default="default")
    parser.add_argument("--workers", type=int, default=2, help="programs that run at a time")
    if metric in RUNS_CODE:
        parser.add_argument("--confirm_run_unsafe_code", action="store_true", help="agree to run generated programs")
    assert metric in METRICS
    try:
        run(metric, parser.parse_args())
    except (ValueError, KeyError, OSError, SandboxError) as error:
        missing = f"a row has no field {error}; is this the right metric for the file?"
        sys.exit(f"error: {missing if isinstance(error, KeyError) else ' '.join(str(error).split())}")
    except KeyboardInterrupt:
        sys.exit("interrupted")
