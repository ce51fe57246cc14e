"""The two plots of a report."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from cd4lm.data.rows import read_jsonl
from cd4lm.settings import ExperimentConfig
from evaluation.analysis import family, reference_cell

COLOURS = {"teacher": "#4c72b0", "student": "#c44e52", "control": "#8c8c8c"}
PARTS = {
    "reconstruction": "cross-entropy, nats",
    "consistency": "consistency, nats",
    "distillation": "distillation, nats",
    "denoising": "masked denoising, nats",
    "lambda": "lambda",
}
FURTHER = ("#55a868", "#8172b3", "#ccb974", "#64b5cd")


def colours(models) -> dict[str, str]:
    """A colour for each model, the same in every plot."""
    others = [model for model in models if model not in COLOURS]
    return COLOURS | {model: FURTHER[i % len(FURTHER)] for i, model in enumerate(others)}


def plot_pareto(config: ExperimentConfig, cells: dict, names: dict, path: Path) -> None:
    """Accuracy against NFE, one line per model and kind of decoder."""
    figure, axes = plt.subplots(figsize=(9, 5))
    colour = colours(cells)
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
                label=f"{names[model]} + {kind}",
                color=colour[model],
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


def plot_training(config: ExperimentConfig, names: dict, path: Path) -> None:
    """The parts of each student's loss over the steps; a part that only some students have is theirs alone."""
    folders = {"student": Path(config.output_dir)}
    folders |= {name: folders["student"] / name for name in config.also}
    logs = {model: read_jsonl(folder / "training_log.jsonl") for model, folder in folders.items()}
    present = [key for key in PARTS if any(key in entry for log in logs.values() for entry in log)]
    figure, row = plt.subplots(1, len(present), figsize=(3.7 * len(present), 3.4), squeeze=False)
    colour = colours(["teacher", *folders])
    for axis, key in zip(row[0], present, strict=True):
        for model, log in logs.items():
            points = [(entry["step"], entry[key]) for entry in log if key in entry]
            if points:
                axis.plot(*zip(*points, strict=True), color=colour[model], label=names[model])
        axis.set_title(PARTS[key], fontsize=10)
        axis.set_xlabel("optimiser step")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)
