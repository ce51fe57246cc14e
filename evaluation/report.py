"""The report of an experiment: results.json for machines, report.md and two plots for people."""

import json
from pathlib import Path

from cd4lm.settings import ExperimentConfig
from evaluation.analysis import RESAMPLES, analyse
from evaluation.plots import plot_pareto, plot_training
from evaluation.sentences import span, verdict


def setting_of(cell: dict) -> str:
    setting = f"{cell['setting']:g} steps" if cell["family"] == "fixed" else f"threshold {cell['setting']:g}"
    return setting if cell["cache"] == "none" else f"{setting}, exact cache"


def cell_table(cells: dict, names: dict) -> list[str]:
    """One line per cell of the grid, with the latency where it was measured."""
    timed = any(cell["latency"] for row in cells.values() for cell in row.values())
    head = [
        "model",
        "decoder",
        "accuracy, %",
        "95 % interval",
        "NFE",
        "tokens before EOS",
        "tokens per forward",
        "tokens/s",
    ]
    lines = [" | ".join(["", *head, *(["ms per answer at batch 1"] if timed else []), ""]).strip(), ""]
    lines[1] = "|" + "---|" * (len(head) + timed)
    for model, row in cells.items():
        for cell in row.values():
            low, high = cell["accuracy_95"]
            line = (
                f"| {names[model]} | {cell['family']}, {setting_of(cell)} | {100 * cell['accuracy']:.1f} "
                f"| {100 * low:.1f} to {100 * high:.1f} | {cell['nfe']:.1f} | {cell['tokens_before_eos']:.1f} "
                f"| {cell['tokens_per_forward']:.2f} | {cell['tokens_per_second']:.0f} |"
            )
            if timed:
                line += f" {1000 * sum(cell['latency']) / len(cell['latency']):.0f} |" if cell["latency"] else " |"
            lines.append(line)
    return lines


def equal_accuracy_table(analysis: dict) -> list[str]:
    lines = ["| decoder | NFE at equal accuracy [95 %] | reached in |", "|---|---|---|"]
    for name, e in analysis["nfe_at_equal_accuracy"].items():
        lines.append(f"| {name} | {span(e)} | {100 * e['reached']:.0f} % of resamples |")
    return lines


def render(config: ExperimentConfig, cells: dict, analysis: dict) -> str:
    """report.md."""
    wrote = "the teacher's own, filtered to the right ones" if config.data.keep == "right" else "the teacher's own"
    answers = wrote if config.data.answers == "teacher" else "the data set's"
    target = 100 * (analysis["reference_accuracy"] - analysis["margin"])
    return "\n".join(
        [
            "# What DSCD and CAD bring" if config.cdlm is None else "# CDLM, DSCD, their combination, and CAD",
            "",
            *[f"- {line}" for line in verdict(analysis)],
            "",
            "![accuracy against forward passes](pareto.png)",
            "",
            "## Equal accuracy",
            "",
            f"Forward passes (NFE) to reach {target:.1f} %: the teacher's {100 * analysis['reference_accuracy']:.1f} % at "
            f"one token per step ({analysis['reference_nfe']:.1f} NFE) less a margin of {100 * analysis['margin']:g} "
            "point(s), interpolated between the cells below.",
            "",
            *equal_accuracy_table(analysis),
            "",
            "## Every cell",
            "",
            *cell_table(cells, analysis["names"]),
            "",
            "## How it was measured",
            "",
            f"- {analysis['problems']} held-out problems ({config.evaluate.split} split) whose arithmetic occurs nowhere in "
            "training; thresholds are chosen on the validation split.",
            f"- {'Student and control' if set(config.also) == {'control'} else 'Every student'}: {config.train.max_steps or config.train.epochs} "
            f"{'steps' if config.train.max_steps else 'epochs'} of {config.train.batch_size * config.train.accumulation} "
            f"rows, seed {config.train.seed}; answers: {answers}. One training seed: intervals cover the problems, not the "
            "seeds.",
            "- Every cell runs the same decode loop and stops a row once everything before its first EOS is committed; "
            "NFE and tokens are counted up to there, so padding flatters nobody.",
            f"- Intervals: Wilson for accuracies; {RESAMPLES} paired bootstrap resamples of the problems for differences "
            "and ratios.",
            "",
            "![training](training.png)",
            "",
        ]
    )


def write_report(config: ExperimentConfig, cells: dict) -> None:
    """Write results.json, report.md, pareto.png and training.png into the experiment's results_dir."""
    output = Path(config.results_dir)
    analysis = analyse(config, cells)
    (output / "results.json").write_text(json.dumps({"analysis": analysis, "cells": cells}) + "\n")
    plot_pareto(config, cells, analysis["names"], output / "pareto.png")
    plot_training(config, analysis["names"], output / "training.png")
    (output / "report.md").write_text(render(config, cells, analysis))
