"""The five plots of the page."""

from collections.abc import Iterator
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from cd4lm.data.tiny_task import answer_bits
from cd4lm.model.loading import tokenizer_for_inference
from evaluation.envelope import hull
from evaluation.study.analysis import Analysis
from evaluation.study.choice import one_token
from evaluation.study.settings import TEACHER, Cell, experiment_of
from evaluation.study.work import read_split

DIALS = ("entropy of the data's answers, bits", "wrong answers of the teacher, one token per step, %")
GAINS = (("dscd", "lambda0"), ("own", "own_lambda0"))
GAINS += tuple((arm, TEACHER) for arm in ("own", "cdlm", "d3llm", "tad_path", "dparallel"))


def save(figure, path: Path) -> None:
    figure.savefig(path, dpi=110, bbox_inches="tight")
    plt.close(figure)


def main_world(analysis: Analysis) -> str:
    """The first world of the plan that is measured."""
    return next(world for world, _ in analysis.study.pairs() if world in analysis.terms)


def dials(analysis: Analysis) -> dict[str, tuple[float | None, float, float]]:
    """Of each world bits of the data's answers (None = not known), wrong answers of the teacher and EOS in a canvas, in %."""
    found = {}
    for world in analysis.terms:
        experiment = experiment_of(analysis.study, Cell(world))
        data, tokenizer = experiment.data, tokenizer_for_inference(experiment.teacher)
        rows = read_split(analysis.study, Cell(world), "test", analysis.study.test)
        teacher = analysis.records[world, TEACHER][0]
        bits = [answer_bits(row["key"], data.world.wordings) for row in rows] if data.dataset == "tiny" else None
        lengths = [len(tokenizer(row["answer"], add_special_tokens=False)["input_ids"]) for row in rows]
        end = 1 - np.mean(lengths) / analysis.study.gen_length
        wrong = 100 * (1 - teacher.right(one_token(analysis.study)).mean())
        found[world] = None if bits is None else float(np.mean(bits)), wrong, float(100 * end)
    return found


def plot_gains(analysis: Analysis, contrasts: list[dict], path: Path) -> None:
    """The main figure: what each method gains, against the entropy of the targets and the teacher's slack.

    A panel moves one dial: worlds of the main world's recipe with other wordings, or its wordings with other teachers.
    In one world there is none to move, and one panel.
    """
    count = min(len(analysis.terms), 2)
    figure, (axes,) = plt.subplots(1, count, figsize=(5.5 * count, 4.2), sharey=True, squeeze=False)
    study, main = analysis.study, main_world(analysis)
    places = {world: (round(bits or 0, 1), wrong) for world, (bits, wrong, _) in dials(analysis).items()}
    one_each = {places[world][0]: world for world in [*reversed(places), main]}
    panels = ({*one_each.values()}, {world for world in places if places[world][0] == places[main][0]})
    for side, (part, worlds) in enumerate(zip(axes, panels, strict=False)):
        span = max(np.ptp([places[world][side] for world in worlds]), 1)
        for i, (a, b) in enumerate(GAINS):
            planned = [r for r in contrasts if (r["a"], r["b"], r["measure"]) == (a, b, "accuracy")]
            for row in (r for r in planned if r["world"] in worlds and r["difference"]):
                d, x = row["difference"], places[row["world"]][side] + 0.02 * (i - len(GAINS) // 2) * span
                half, many = (0 if d["low"] is None else d["high"] - d["value"]), d["low"] is not None
                how = {"fmt": "o", "color": f"C{i}", "capsize": 2 * many, "mfc": f"C{i}" if many else "none"}
                part.errorbar(x, 100 * d["value"], yerr=100 * half, **how)
            part.plot([], [], "o", color=f"C{i}", label=f"{study.label(a)} − {study.label(b)}" if planned else "")
        ends = [places[world][side] for world in worlds]
        part.set_xlim(min(ends) - 0.1 * span, max(ends) + 0.1 * span)
        part.secondary_xaxis("top").set_xticks(ends, worlds, fontsize=7)
        part.set(**({"xlabel": DIALS[side]} if count > 1 else {"xticks": []}))
        part.axhline(0, color="black", lw=0.7)
        part.grid(alpha=0.3)
    axes[0].set_ylabel("gain in accuracy at the world's budget, points\n(hollow: one seed)")
    axes[0].legend(fontsize=7, **({} if count > 1 else {"loc": "upper center", "bbox_to_anchor": (0.5, -0.03)}))
    save(figure, path)


def crossed(analysis: Analysis, world: str) -> Iterator[tuple[str, list, dict]]:
    """The teacher of a world and its arms with several seeds: name, records, how to draw it."""
    study = analysis.study
    several = [arm for of, arm in study.pairs() if len(study.seeds(of, arm)) > 1]
    colours = dict(zip(dict.fromkeys([TEACHER, *several]), plt.get_cmap("tab20").colors, strict=False))
    for (of, arm), found in analysis.records.items():
        if of == world and (arm == TEACHER or len(study.seeds(world, arm)) > 1):
            yield arm, found, {"color": colours[arm], "label": analysis.study.label(arm)}


def plot_envelopes(analysis: Analysis, path: Path) -> None:
    """Accuracy against NFE, mean over seeds: the envelope on validation, and where its choice at the budget is on test."""
    columns, rows = min(3, len(analysis.terms)), -(-len(analysis.terms) // 3)
    figure, axes = plt.subplots(rows, columns, figsize=(4.5 * columns, 4 * rows), squeeze=False)
    for part, (world, terms) in zip(axes.flat, analysis.terms.items(), strict=False):
        for arm, found, how in crossed(analysis, world):
            names = [n for n in found[0].validation if any(n in hull(r.validation) for r in found)]
            points = sorted(tuple(np.mean([r.validation[n] for r in found], axis=0)) for n in names)
            x, y = zip(*points, strict=True)
            part.plot(x, [100 * v for v in y], "-", lw=1, **how)
            right, spent = analysis.columns(world, arm, "accuracy")
            part.plot(spent.mean(), 100 * right.mean(), "o", ms=6, color=how["color"])
        part.axhline(100 * terms.target, color="black", lw=0.7, ls=":")
        part.axvline(terms.budget, color="black", lw=0.7, ls=":")
        part.set_title(f"{world} (dotted: target, budget)", fontsize=9)
        part.set_xlabel("forward passes per answer")
        part.grid(alpha=0.3)
        part.legend(fontsize=6)
    for part in axes.flat[len(analysis.terms) :]:
        part.axis("off")
    figure.supylabel("exact match, %: validation (lines), test at the budget (dots)", fontsize=9)
    figure.tight_layout()
    save(figure, path)


def plot_mechanism(rows: list[dict], study, path: Path) -> None:
    """Per arm and world: agreement and KL between states, states on the teacher's path, ranking by confidence."""
    shown = (
        ("invariance.agreement", "one argmax in two states, %", 100),
        ("invariance.kl", "KL between the states, nats", 1),
        ("path.on_path", "states on the teacher's path, %", 100),
        ("auroc", "confidence ranks right over wrong, AUROC", 1),
    )
    names = [f"{row['world']}: {study.label(row['arm'])}" for row in rows][::-1]
    figure, axes = plt.subplots(1, len(shown), figsize=(13, 1 + 0.2 * len(rows)), sharey=True)
    for part, (key, title, scale) in zip(axes, shown, strict=True):
        values = [row["mechanism"].get(key) for row in rows][::-1]
        colours = ["#4c72b0" if row["arm"] == TEACHER else "#c44e52" for row in rows][::-1]
        part.barh(range(len(rows)), [scale * (v or 0) for v in values], color=colours, height=0.7)
        part.set_title(title, fontsize=8)
        part.grid(alpha=0.3, axis="x")
    axes[0].set_yticks(range(len(rows)), names, fontsize=6)
    save(figure, path)


def of_seeds(analysis: Analysis, world: str) -> Iterator[tuple[dict, dict]]:
    """What mechanism.py found of all seeds of an arm, and how to draw it."""
    for _, found, how in crossed(analysis, world):
        own = [r.content["mechanism"]["calibration"] for r in found]
        yield {name: np.concatenate([c[name] for c in own]) for name in own[0]}, how


def finish(figure, axes, world: str, path: Path) -> None:
    axes.set_title(f"{world}, validation problems", fontsize=9)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    save(figure, path)


def plot_calibration(analysis: Analysis, world: str, path: Path) -> None:
    """Share of right answers by the least confidence of their tokens, of the arms with several seeds in one world."""
    figure, axes = plt.subplots(figsize=(6.5, 4))
    for found, how in of_seeds(analysis, world):
        confidence = found["least_confidence"]
        place = np.clip(np.digitize(confidence, np.linspace(0, 1, 6)) - 1, 0, 4)
        bins = [place == b for b in range(5) if (place == b).sum() >= 5]
        axes.plot(
            [confidence[b].mean() for b in bins], [100 * found["right"][b].mean() for b in bins], "o-", ms=4, **how
        )
    threshold = f"CAD {analysis.study.mechanism_threshold:g}"
    axes.set_xlabel(f"least confidence with which a token of the answer was committed, {threshold}")
    axes.set_ylabel("right answers, %")
    finish(figure, axes, world, path)


def plot_nfe(analysis: Analysis, world: str, path: Path) -> None:
    """Histogram of forward passes per answer with CAD at the mechanism's threshold."""
    figure, axes = plt.subplots(figsize=(6.5, 4))
    drawn = list(of_seeds(analysis, world))
    bins = np.arange(0, max(found["nfe"].max() for found, _ in drawn) + 3, 2)
    for found, how in drawn:
        axes.stairs(100 * np.histogram(found["nfe"], bins)[0] / len(found["nfe"]), bins, **how)
    axes.set_xlabel(f"forward passes per answer, CAD {analysis.study.mechanism_threshold:g}")
    axes.set_ylabel("answers, %")
    finish(figure, axes, world, path)
