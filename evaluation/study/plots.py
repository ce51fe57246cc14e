"""The three plots of the results page."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from evaluation.study.results import Results
from evaluation.study.settings import TEACHER, StudyConfig

COLOURS = ["#4c72b0", "#c44e52", "#8c8c8c", "#dd8452", "#937860", "#55a868", "#8172b3", "#64b5cd"]


def shown(results: Results) -> dict[str, str]:
    """The variants in the line plots and their colours: the teacher and the main ones."""
    names = [name for name in (TEACHER, *results.study.main) if name in results.variants]
    return dict(zip(names, COLOURS, strict=False))


def bounds(rows: list[dict], scale: float = 1.0) -> np.ndarray:
    """Lengths below and above of error bars, (2, n); an open end has none."""
    low = [row["value"] - row["low"] if row["low"] is not None else 0.0 for row in rows]
    high = [row["high"] - row["value"] if row["high"] is not None else 0.0 for row in rows]
    return scale * np.clip(np.array([low, high]), 0, None)


def mean_over_seeds(results: Results, variant: str, decoder: str, what: str) -> float:
    seeds, count = results.seeds(variant), results.study.problems_of(variant)
    return results.column(variant, decoder, what, seeds, count).mean()


def plot_frontier(results: Results, analysis: dict, path: Path) -> None:
    """Accuracy against NFE: CAD as lines over its thresholds, fixed budgets as squares, one token per step as a star."""
    figure, axes = plt.subplots(figsize=(9, 5))
    for variant, colour in shown(results).items():
        label = results.study.label(variant)
        for family, style in (("CAD", "o-"), ("fixed", "s:")):
            names = results.decoders(variant, family)
            points = sorted(
                (mean_over_seeds(results, variant, n, "nfe"), 100 * mean_over_seeds(results, variant, n, "right"))
                for n in names
            )
            if points:
                axes.plot(*zip(*points, strict=True), style, color=colour, label=f"{label} + {family}", markersize=5)
    one = [mean_over_seeds(results, TEACHER, results.one_token, what) for what in ("nfe", "right")]
    axes.plot(one[0], 100 * one[1], "*", color=COLOURS[0], markersize=13, label="teacher, one token per step")
    axes.axhline(100 * analysis["target"]["value"], color="black", lw=0.7, ls=":")
    axes.axvline(results.study.budget, color="black", lw=0.7, ls=":")
    axes.set_xlabel("forward passes per answer (NFE, up to EOS)")
    axes.set_ylabel("exact match, %")
    axes.set_title(
        "mean over seeds; dotted: equal accuracy, and the budget at which accuracies are compared", fontsize=9
    )
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    save(figure, path)


def forest(axes, study: StudyConfig, analysis: dict, measure: str, scale: float, title: str) -> None:
    """One line per variant with its interval, the teacher's value dotted; what is never reached says so."""
    rows = list(analysis["variants"].values())[::-1]
    for y, row in enumerate(rows):
        e = row[measure]
        if e["value"] is None:
            axes.text(
                0.02, y, "not reached", transform=axes.get_yaxis_transform(), fontsize=7, va="center", color="gray"
            )
            continue
        colour = COLOURS[0] if row["variant"] == TEACHER else "#c44e52" if len(row["seeds"]) > 1 else "#8c8c8c"
        axes.errorbar(scale * e["value"], y, xerr=bounds([e], scale), fmt="o", color=colour, markersize=4, capsize=2)
        if e["high"] is None:
            axes.annotate("→", (scale * e["value"], y), xytext=(4, -3), textcoords="offset points", color=colour)
    teacher = analysis["variants"][TEACHER][measure]["value"]
    if teacher is not None:
        axes.axvline(scale * teacher, color="black", lw=0.7, ls=":")
    axes.set_yticks(range(len(rows)), [study.label(row["variant"]) for row in rows], fontsize=7)
    axes.set_title(title, fontsize=9)
    axes.grid(alpha=0.3)


def plot_equal(results: Results, analysis: dict, path: Path) -> None:
    """NFE at equal accuracy and accuracy at the budget, per variant."""
    study = results.study
    figure, axes = plt.subplots(1, 2, figsize=(11, 1 + 0.27 * len(analysis["variants"])), sharey=True)
    forest(axes[0], study, analysis, "nfe", 1, "NFE of CAD at equal accuracy (fewer is better)")
    forest(axes[1], study, analysis, "accuracy_at_nfe", 100, f"accuracy of CAD at {study.budget:g} NFE, %")
    save(figure, path)


def plot_reliability(results: Results, analysis: dict, path: Path) -> None:
    """Left: how often confident tokens are wrong. Right: likelihood of the data's answers against variety of wordings."""
    study = results.study
    figure, axes = plt.subplots(1, 2, figsize=(11, 4))
    for variant, colour in shown(results).items():
        row = analysis["variants"][variant]
        errors = [row["calibration"][tau]["error"] for tau in study.thresholds]
        values, label = [100 * e["value"] for e in errors], study.label(variant)
        axes[0].errorbar(
            study.thresholds, values, yerr=bounds(errors, 100), color=colour, marker="o", capsize=2, label=label
        )
        nll, bits = row["nll"], row["wordings"]
        style = {"color": colour, "marker": "o", "capsize": 2, "label": label}
        axes[1].errorbar(bits["value"], nll["value"], xerr=bounds([bits]), yerr=bounds([nll]), **style)
    ends = sorted(study.thresholds)
    axes[0].plot(ends, [100 * (1 - tau) for tau in ends], ":", color="black")
    axes[0].annotate(
        "1 - threshold", (ends[0], 100 * (1 - ends[0])), xytext=(20, -4), textcoords="offset points", fontsize=8
    )
    axes[0].set_xlabel("threshold of CAD")
    axes[0].set_title("wrong among the tokens committed with confidence at or above it, %", fontsize=9)
    axes[1].set_xlabel("entropy of sampled wordings, bits (the data has 3)")
    axes[1].set_title("NLL of the data's answers, nats per token", fontsize=9)
    for part in axes:
        part.grid(alpha=0.3)
    axes[1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    save(figure, path)


def save(figure, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)
