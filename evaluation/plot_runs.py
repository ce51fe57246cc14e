"""Accuracy against forward passes of several result folders: frontier.md, frontier.json and frontier.png.

    python evaluation/plot_runs.py outputs/gsm8k/cad_0.95 outputs/gsm8k/cad_0.8 outputs/gsm8k/fixed_stop --output_path outputs/gsm8k

A folder's family is its name without the part after the last underscore where that is a number: cad_0.95 and cad_0.8 are
one family, joined by a line. Where a family has several points, AUP is the area under them with its y_max.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from cd4lm.config import exit_with_message, require
from evaluation.dllm_eval.results import write_whole
from evaluation.statistics import aup


def read_run(folder: Path) -> dict[str, dict]:
    """The tasks of a run's results.json, with the run's name and family. Raises ValueError if it is not finished."""
    file = folder / "results.json"
    require(file.is_file(), f"{file} does not exist: finish that evaluation first")
    stem, _, setting = folder.name.rpartition("_")
    family = stem if stem and setting.replace(".", "", 1).isdigit() else folder.name
    tasks = json.loads(file.read_text())["tasks"]
    return {task: result | {"run": folder.name, "family": family} for task, result in tasks.items()}


def points_by_task(folders: list[Path]) -> dict[str, list[dict]]:
    """Every run's result of each task, fewest forward passes first."""
    points = defaultdict(list)
    for folder in folders:
        for task, result in read_run(folder).items():
            points[task].append(result)
    require(bool(points), "none of these runs has a task of this repository: lm-eval's own have no NFE")
    return {task: sorted(results, key=lambda r: r["nfe"]) for task, results in points.items()}


def families(results: list[dict]) -> dict[str, list[dict]]:
    grouped = defaultdict(list)
    for result in results:
        grouped[result["family"]].append(result)
    return dict(grouped)


def areas(results: list[dict]) -> dict[str, float]:
    """AUP of each family, with the best accuracy of all runs as y_max (d3LLM)."""
    best = max(100 * r["accuracy"] for r in results)
    if best == 0:
        return {}
    return {
        name: aup([(r["tokens_per_forward"], 100 * r["accuracy"]) for r in runs], best).value
        for name, runs in families(results).items()
        if len(runs) > 1
    }


def table(points: dict[str, list[dict]]) -> str:
    """Every run of every task, one line each."""
    lines = []
    for task, results in points.items():
        lines += [
            f"## {task}, {results[0]['documents']} documents",
            "",
            "| run | accuracy, % [95 %] | NFE | tokens per forward | tokens/s | latency, s | cut off, % | no answer |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for r in results:
            low, high = (100 * bound for bound in r["accuracy_95"])
            lines.append(
                f"| {r['run']} | {100 * r['accuracy']:.1f} [{low:.1f}, {high:.1f}] | {r['nfe']:.1f} "
                f"| {r['tokens_per_forward']:.2f} | {r['tokens_per_second']:.1f} | {r['latency_mean']:.2f} "
                f"| {100 * r['truncated']:.1f} | {r['no_answer']} of {r['responses']} |"
            )
        best = max(100 * r["accuracy"] for r in results)
        lines += ["", *(f"AUP of {name}: {a:.1f} (y_max {best:.1f})" for name, a in areas(results).items()), ""]
    return "\n".join(lines).rstrip() + "\n"


def spaced_ticks(values: list[float]) -> tuple[list[float], list[str]]:
    """Ticks at the values themselves, leaving out those closer than a tenth to the one before; their labels."""
    ticks: list[float] = []
    for value in sorted(values):
        if not ticks or value > 1.1 * ticks[-1]:
            ticks.append(value)
    return ticks, [f"{tick:.1f}" for tick in ticks]


def plot(points: dict[str, list[dict]], path: Path) -> None:
    """One panel per task: accuracy with its interval over NFE, a line per family."""
    figure, panels = plt.subplots(1, len(points), figsize=(1 + 6 * len(points), 4.5), squeeze=False)
    for axes, (task, results) in zip(panels[0], points.items(), strict=True):
        for name, runs in families(results).items():
            accuracy = [100 * r["accuracy"] for r in runs]
            bounds = [[max(0.0, a - 100 * r["accuracy_95"][0]) for a, r in zip(accuracy, runs, strict=True)]]
            bounds += [[max(0.0, 100 * r["accuracy_95"][1] - a) for a, r in zip(accuracy, runs, strict=True)]]
            axes.errorbar([r["nfe"] for r in runs], accuracy, yerr=bounds, marker="o", capsize=3, label=name)
        axes.set_xscale("log")
        axes.set_xticks(*spaced_ticks([r["nfe"] for r in results]))
        axes.minorticks_off()
        axes.set_xlabel("forward passes per answer (NFE)")
        axes.set_ylabel("accuracy, % with 95 % interval")
        axes.set_title(f"{task}, {results[0]['documents']} documents", fontsize=10)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="result folders of evaluation_script.py")
    parser.add_argument("--output_path", type=Path, required=True, help="where to write the table and the plot")
    arguments = parser.parse_args()
    points = points_by_task(arguments.runs)
    arguments.output_path.mkdir(parents=True, exist_ok=True)
    text = table(points)
    write_whole(arguments.output_path / "frontier.md", text)
    summary = {task: {"runs": results, "aup": areas(results)} for task, results in points.items()}
    write_whole(arguments.output_path / "frontier.json", json.dumps(summary, indent=2) + "\n")
    plot(points, arguments.output_path / "frontier.png")
    print(text + f"wrote {arguments.output_path}/frontier.md, frontier.json and frontier.png")


if __name__ == "__main__":
    exit_with_message(main)
