"""The results page: docs/results.md with its plots, and the JSON of every cell beside it."""

import gzip
import json
from pathlib import Path

from cd4lm.config import require
from cd4lm.io import write_json
from cd4lm.model.loading import load_config
from cd4lm.training.train import parameter_count
from evaluation.study import tables
from evaluation.study.analysis import analyse
from evaluation.study.plots import plot_equal, plot_frontier, plot_reliability
from evaluation.study.results import Results
from evaluation.study.settings import TEACHER, Cell, StudyConfig, experiment_of

# What stands before any number: why no row is a verdict.
LIMITS = [
    "**What this page cannot decide.** It says what was measured, and no row is a verdict about the papers:",
    "",
    "- The learning rate and the length of training were not tuned for each variant, and the rate is high enough to damage "
    "a teacher that is trained on with its own loss.",
    "- *As published* means the loss and its curriculum; of the published switches it sets the positions of the KL term alone. "
    "The published learning rate, schedule, length and unsupervised EOS are not tried.",
    "- No variant separates the teacher's *own* answers from answers in *one fixed wording*: less varied targets alone may "
    "explain the difference.",
    "- The teacher is nearly perfect, so a student has little to gain; a canvas has two blocks, so CDLM's consistency loss "
    "has little to act on.",
    "- The published threshold 0.95 is not among those measured, and which of two variants comes first can depend on the decoder.",
    "- Three seeds, or one. The intervals and p-values resample seeds and problems together; with the seeds "
    "as the unit, two degrees of freedom, they would be much wider.",
]
MOST_BYTES = 2_000_000  # of raw results that go beside the page; larger ones stay in output_dir


def first_page(study: StudyConfig, analysis: dict, config: str, plots: str) -> list[str]:
    target = 100 * analysis["target"]["value"]
    lines = [
        "# Which part does the work",
        "",
        f"Written by `python scripts/study.py {config}`: {study.problems} held-out problems of the embedded task, "
        f"students of the same number of steps, seeds {', '.join(map(str, study.seeds))} for the main variants. The "
        "comparisons were planned in that file before the runs"
        + ("; what was changed since is listed under *How it was measured*." if study.amendments else "."),
        "",
    ]
    if analysis["missing"]:
        lines += [
            f"**Incomplete:** {len(analysis['missing'])} cells are not there: {', '.join(analysis['missing'])}.",
            "",
        ]
    return [
        *lines,
        *LIMITS,
        "",
        f"![accuracy against forward passes]({plots}/frontier.png)",
        "",
        f"![each variant at equal accuracy and at equal cost]({plots}/equal.png)",
        "",
        f"![calibration and forgetting]({plots}/reliability.png)",
        "",
        f"Equal accuracy is {target:.1f} %, the teacher's at one token per step less {100 * study.margin:g} point(s). Brackets "
        f"are 95 % intervals. `python scripts/study.py {config} --cell NAME`, with a name from the last table, reruns one cell "
        "and says whether its numbers are those stored.",
    ]


def all_tables(results: Results, analysis: dict) -> list[str]:
    study = results.study
    sections = [
        ("Planned contrasts, main", tables.contrast_table(study, analysis, main=True)),
        ("Planned contrasts, exploratory", tables.contrast_table(study, analysis, main=False)),
        ("Variants", tables.variant_table(study, analysis)),
        ("Calibration", tables.calibration_table(study, analysis)),
        ("What is forgotten, and the teacher's path", tables.memory_table(study, analysis)),
        ("Other blocks and canvases", tables.transfer_table(study, analysis)),
    ]
    timing = Path(study.output_dir) / "timing.json"
    if timing.is_file():
        sections.append(("Wall-clock", tables.timing_table(study, json.loads(timing.read_text()))))
    sections.append(("Every cell", tables.cell_table(results)))
    return [line for title, lines in sections for line in ("", f"## {title}", "", *lines)]


def method(results: Results) -> list[str]:
    """How it was measured, and what stands against believing it."""
    study, record = results.study, results.measures[Cell(TEACHER)]["frontier"]["provenance"]
    experiment = experiment_of(study, Cell(TEACHER))
    millions, own = parameter_count(load_config(experiment.teacher)) / 1e6, len(study.main)
    return [
        "",
        "## How it was measured",
        "",
        "- Every cell runs the same trainer, decode loop and problems; NFE and tokens count up to the first EOS.",
        "- *NFE at equal accuracy*: of CAD, interpolated between thresholds. *Accuracy of CAD at a budget*: the best that "
        f"its thresholds, or a mix of two, reach with {study.budget:g} forward passes on average. *CAD against "
        "fixed steps*: at the passes the latter take, or where CAD's loosest threshold takes more, at those of the threshold.",
        "- *Wrong* tokens: the task has many right wordings, so a committed token counts as wrong if the same model, shown "
        "the finished answer with only that position masked, proposes another. It measures agreement with oneself, not "
        f"arithmetic. {study.subset} problems; a block-causal model does not see later blocks when it looks again.",
        f"- *NLL*: masked-denoising loss of the data's answers, all eight wordings, on {study.held_out} held-out problems "
        f"with {study.nll_samples} states each, the same for every model; EOS left out. *Wordings*: one sample per problem "
        f"at temperature 1, one token per step, {study.subset} problems.",
        "- *Teacher's path*: the states after each step of CAD at the headline threshold, against the teacher at one token "
        "per step: with the tokens it ends up with, or visited by it as they are.",
        f"- Intervals: {study.resamples} bootstrap resamples, seeds first, then problems, differences paired; p-values are "
        f"two-sided from the same resamples, so none is below {2 / (study.resamples + 1):.1g}; Holm over the main "
        "contrasts. A contrast uses the seeds and problems that both sides have. McNemar is exact, per seed, with CAD at "
        f"the headline threshold {study.headline:g}. Accuracies in the table of cells: Wilson.",
        f"- Made on {record['device']}, {record['threads']} thread(s), torch {record['versions']['torch']}. Wall-clock was "
        "taken at the end in one process, all variants in turn on the same problems at batch 1.",
        *(f"- Changed after the plan was written: {amendment}." for amendment in study.amendments),
        "",
        "## Threats to validity",
        "",
        f"- **Size.** A teacher of {millions:.1f} million parameters and students trained for {experiment.train.max_steps} "
        "steps: what costs most at 8B (memory, learning rate, length of training) is not seen here.",
        "- **Task.** Synthetic arithmetic with eight wordings per step, drawn at random. It was made so that parallel "
        "commitment is hard for the reason it is hard in language, many right answers, and it has no other difficulty.",
        f"- **Seeds.** {len(study.seeds)} for {own} variants, one for the rest. Resampling so few seeds makes intervals too "
        "narrow; the differences by seed stand in the table. A single seed's interval covers the problems alone.",
        f"- **Settings.** One learning rate, length of training and threshold for all variants, those of {study.experiment} "
        "and of the study's file; each variant's own best may lie elsewhere.",
        "- **CDLM.** It learns from the teacher's recorded paths that end in a right answer, DSCD from one answer to each "
        "question; and with blocks as long as those of every other decoder here, a canvas has few blocks for its "
        "consistency loss to act on.",
        "- **Wall-clock.** A model this small spends much of a step outside its matrix products, so tokens/s gain less than "
        "NFE promise; 8B weights on a GPU are another matter, not measured here.",
        "- **Interpolation.** NFE at equal accuracy depends on the few thresholds measured; `not reached` means at none of "
        "them.",
        "",
    ]


def summaries(results: Results) -> dict:
    """Every cell's records without the arrays over problems."""

    def lean(tree):
        if isinstance(tree, dict):
            return {key: lean(value) for key, value in tree.items() if key != "problems" or not isinstance(value, dict)}
        return tree

    return {cell.name: lean(measures) for cell, measures in results.measures.items()}


def write_raw(results: Results, folder: Path) -> None:
    """All records with their arrays, compressed, beside the page if small enough, else in output_dir."""
    raw = {cell.name: measures for cell, measures in results.measures.items()}
    packed = gzip.compress(json.dumps(raw).encode(), mtime=0)
    name = "cells.json.gz"
    (folder / name).unlink(missing_ok=True)
    (folder if len(packed) <= MOST_BYTES else Path(results.study.output_dir)).joinpath(name).write_bytes(packed)


def write_page(study: StudyConfig, config: str) -> Path:
    """Write the page from what is stored. config: the study's YAML, for the commands. Raises ValueError without a teacher."""
    results = Results.read(study)
    require(Cell(TEACHER) in results.measures, "the teacher, which everything is compared with, is not measured yet")
    analysis = analyse(results)
    page = Path(study.report)
    folder = page.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    plot_frontier(results, analysis, folder / "frontier.png")
    plot_equal(results, analysis, folder / "equal.png")
    plot_reliability(results, analysis, folder / "reliability.png")
    timing = Path(study.output_dir) / "timing.json"
    record = {"analysis": keyed(analysis), "cells": summaries(results)}
    record["timing"] = json.loads(timing.read_text()) if timing.is_file() else None
    write_json(folder / "results.json", record, indent=None)
    write_raw(results, folder)
    lines = first_page(study, analysis, config, folder.name)
    page.write_text("\n".join(lines + all_tables(results, analysis) + method(results)))
    return page


def keyed(tree):
    """The same tree with text for keys, as JSON wants them."""
    if isinstance(tree, dict):
        return {str(key): keyed(value) for key, value in tree.items()}
    return [keyed(value) for value in tree] if isinstance(tree, (list, tuple)) else tree
