"""The report of an experiment: results.json for machines, report.md and two plots for people."""

import json
import math
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from evaluation.frontier import Estimate, accuracy_difference, column, estimate, family_nfe, resample_weights
from evaluation.metrics.statistics import mcnemar
from src.data.rows import read_jsonl
from src.settings import ExperimentConfig

RESAMPLES = 2000
COLOURS = {"teacher": "#4c72b0", "student": "#c44e52", "control": "#8c8c8c"}
MODEL_NAMES = {"teacher": "teacher", "student": "DSCD student", "control": "control (lambda = 0)"}


def family(cells: dict, model: str, kind: str) -> list[dict]:
    """The cells of one model and one kind of decoder."""
    return [cell for cell in cells[model].values() if cell["family"] == kind]


def reference_cell(config: ExperimentConfig, cells: dict) -> dict:
    """The teacher at one token per step, which every comparison refers to."""
    return cells["teacher"][f"fixed-{config.evaluate.gen_length}"]


def plain(e: Estimate) -> dict:
    """An estimate as JSON, which has no NaN: null where the value does not exist."""
    return {name: None if math.isnan(value) else value for name, value in vars(e).items()}


def analyse(config: ExperimentConfig, cells: dict) -> dict:
    """NFE at equal accuracy of every family, its ratios, and paired tests of the headline cells."""
    reference, margin = reference_cell(config, cells), config.evaluate.margin
    weights = resample_weights(len(reference["problems"]["right"]), RESAMPLES, config.evaluate.seed)
    needed = {
        f"{model} + {kind}": family_nfe(family(cells, model, kind), reference, margin, weights)
        for model in cells
        for kind in ("fixed", "CAD")
        if family(cells, model, kind)
    }
    one_token = weights @ column(reference, "nfe")
    tests = {}
    headline = f"CAD-{config.evaluate.headline:g}"
    for model in cells:
        cell = cells[model][headline]
        tests[model] = {
            "difference": plain(accuracy_difference(cell, reference, weights)),
            "mcnemar_p": mcnemar(cell["problems"]["right"], reference["problems"]["right"]),
            "fewer_nfe": plain(estimate(one_token / (weights @ column(cell, "nfe")))),
        }
    pairs = [
        ("teacher + CAD", "student + CAD"),
        ("teacher + fixed", "student + CAD"),
        ("student + fixed", "student + CAD"),
    ]
    if "control" in cells:
        pairs.append(("control + CAD", "student + CAD"))
    return {
        "problems": len(reference["problems"]["right"]),
        "reference_accuracy": reference["accuracy"],
        "reference_nfe": reference["nfe"],
        "margin": margin,
        "nfe_at_equal_accuracy": {name: plain(estimate(samples)) for name, samples in needed.items()},
        "ratios": {f"{a} / {b}": plain(estimate(needed[a] / needed[b])) for a, b in pairs},
        "tests": tests,
        "headline": config.evaluate.headline,
        "student_vs_control": control_test(cells, headline, weights) if "control" in cells else None,
    }


def control_test(cells: dict, headline: str, weights: np.ndarray) -> dict:
    """The student against the lambda = 0 control, both with the headline decoder."""
    student, control = cells["student"][headline], cells["control"][headline]
    forwards = [weights @ column(cell, "nfe") for cell in (control, student)]
    return {
        "accuracy_difference": plain(accuracy_difference(student, control, weights)),
        "mcnemar_p": mcnemar(student["problems"]["right"], control["problems"]["right"]),
        "fewer_nfe": plain(estimate(forwards[0] / forwards[1])),
    }


def span(e: dict, digits: int = 1) -> str:
    """A value with its interval, or a plain word where it does not exist."""
    if e["value"] is None:
        return "not reached"
    return f"{e['value']:.{digits}f} [{e['low']:.{digits}f}, {e['high']:.{digits}f}]"


def percent_span(e: dict) -> str:
    return f"{100 * e['value']:+.1f} points [{100 * e['low']:+.1f}, {100 * e['high']:+.1f}]"


def verdict(analysis: dict) -> list[str]:
    """What the numbers say, in sentences that follow the numbers, whichever way they fall."""
    test, ratios, tau = analysis["tests"]["student"], analysis["ratios"], analysis["headline"]
    lines = [
        f"At threshold {tau:g}, fixed beforehand, student + CAD differs from the teacher at one token per step by "
        f"{percent_span(test['difference'])} in accuracy (exact McNemar p = {test['mcnemar_p']:.2g}) "
        f"with {span(test['fewer_nfe'], 2)} times fewer forward passes."
    ]
    gain = ratios["teacher + CAD / student + CAD"]
    if gain["value"] is None:
        lines.append("Equal accuracy is not reached by both teacher + CAD and student + CAD, so they have no ratio.")
    else:
        word = "fewer" if gain["low"] > 1 else "more" if gain["high"] < 1 else "not measurably fewer"
        lines.append(
            f"At equal accuracy student + CAD needs {word} forward passes than teacher + CAD: "
            f"the ratio is {span(gain, 2)}. This, not the ratio to one token per step, is what distillation adds."
        )
    lines += decoder_sentence(analysis)
    if analysis["student_vs_control"]:
        lines.append(control_sentence(analysis["student_vs_control"], tau))
    return lines


def decoder_sentence(analysis: dict) -> list[str]:
    """Whether the student needs CAD at all, or a fixed budget would do; nothing where either misses the accuracy."""
    ratio, needed = analysis["ratios"]["student + fixed / student + CAD"], analysis["nfe_at_equal_accuracy"]
    if ratio["value"] is None:
        return []
    word = "fewer" if ratio["low"] > 1 else "more" if ratio["high"] < 1 else "neither measurably fewer nor more"
    return [
        f"At equal accuracy student + CAD needs {word} forward passes than student + fixed steps: "
        f"{span(needed['student + CAD'])} against {span(needed['student + fixed'])}."
    ]


def control_sentence(control: dict, tau: float) -> str:
    difference, fewer = control["accuracy_difference"], control["fewer_nfe"]
    better = difference["low"] > 0 or (difference["low"] > -0.01 and fewer["low"] > 1)
    worse = difference["high"] < 0 or (difference["high"] < 0.01 and fewer["high"] < 1)
    claim = "beats" if better and not worse else "loses to" if worse and not better else "does not clearly beat"
    return (
        f"DSCD {claim} plain fine-tuning on the same masks and answers (lambda = 0): {percent_span(difference)} in "
        f"accuracy (p = {control['mcnemar_p']:.2g}) at {span(fewer, 2)} times fewer forward passes, both with CAD {tau:g}."
    )


def cell_table(cells: dict) -> list[str]:
    """One line per cell of the grid."""
    lines = [
        "| model | decoder | accuracy, % | 95 % interval | NFE | tokens before EOS | tokens per forward | tokens/s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for model, row in cells.items():
        for cell in row.values():
            low, high = cell["accuracy_95"]
            setting = f"{cell['setting']:g} steps" if cell["family"] == "fixed" else f"threshold {cell['setting']:g}"
            lines.append(
                f"| {MODEL_NAMES[model]} | {cell['family']}, {setting} | {100 * cell['accuracy']:.1f} "
                f"| {100 * low:.1f} to {100 * high:.1f} | {cell['nfe']:.1f} | {cell['tokens_before_eos']:.1f} "
                f"| {cell['tokens_per_forward']:.2f} | {cell['tokens_per_second']:.0f} |"
            )
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
            "# What DSCD and CAD bring",
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
            *cell_table(cells),
            "",
            "## How it was measured",
            "",
            f"- {analysis['problems']} held-out problems ({config.evaluate.split} split) whose arithmetic occurs nowhere in "
            "training; thresholds are chosen on the validation split.",
            f"- Student and control: {config.train.max_steps or config.train.epochs} "
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


def plot_pareto(config: ExperimentConfig, cells: dict, path: Path) -> None:
    """Accuracy against NFE, one line per model and kind of decoder."""
    figure, axes = plt.subplots(figsize=(9, 5))
    for model in cells:
        for kind, style, marker in (("fixed", "--", "s"), ("CAD", "-", "o")):
            points = sorted(family(cells, model, kind), key=lambda cell: cell["nfe"])
            if not points:
                continue
            accuracy = np.array([100 * cell["accuracy"] for cell in points])
            bounds = 100 * np.array([cell["accuracy_95"] for cell in points]).T
            axes.errorbar(
                [cell["nfe"] for cell in points],
                accuracy,
                yerr=np.abs(bounds - accuracy),
                label=f"{MODEL_NAMES[model]} + {kind}",
                color=COLOURS[model],
                linestyle=style,
                marker=marker,
                markersize=5,
                capsize=2,
                linewidth=1.5,
            )
    axes.axhline(
        100 * (reference_cell(config, cells)["accuracy"] - config.evaluate.margin), color="black", lw=0.7, ls=":"
    )
    axes.set_xscale("log")
    ticks = [t for t in (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128, 256) if t <= config.evaluate.gen_length * 1.2]
    axes.set_xticks(ticks, [str(t) for t in ticks])
    axes.minorticks_off()
    axes.set_xlabel("forward passes per answer (NFE, up to EOS)")
    axes.set_ylabel("exact match, %")
    axes.set_title(
        f"{len(reference_cell(config, cells)['problems']['right'])} held-out problems; dotted: equal accuracy",
        fontsize=10,
    )
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def plot_training(config: ExperimentConfig, path: Path) -> None:
    """The two parts of the loss, the evaluation loss and lambda over the steps, student beside control."""
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4))
    folders = {"student": Path(config.output_dir)}
    folders |= {name: folders["student"] / name for name in config.also}
    for model, folder in folders.items():
        log = read_jsonl(folder / "training_log.jsonl")
        for axis, key, title in zip(
            axes,
            ("reconstruction", "consistency", "lambda"),
            ("cross-entropy, nats", "consistency (T² KL), nats", "lambda"),
            strict=True,
        ):
            points = [(entry["step"], entry[key]) for entry in log if key in entry]
            axis.plot(*zip(*points, strict=True), color=COLOURS[model], label=MODEL_NAMES[model])
            axis.set_title(title, fontsize=10)
            axis.set_xlabel("optimiser step")
            axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def write_report(config: ExperimentConfig, cells: dict) -> None:
    """Write results.json, report.md, pareto.png and training.png into the experiment's results_dir."""
    output = Path(config.results_dir)
    analysis = analyse(config, cells)
    (output / "results.json").write_text(json.dumps({"analysis": analysis, "cells": cells}) + "\n")
    plot_pareto(config, cells, output / "pareto.png")
    plot_training(config, output / "training.png")
    (output / "report.md").write_text(render(config, cells, analysis))
