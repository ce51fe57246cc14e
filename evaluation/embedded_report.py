"""The report of an experiment on the embedded task: report.md, the same as one page with two answers, plots, three lines in words."""

from pathlib import Path

import torch

from cd4lm.data.examples import encode_prompt
from cd4lm.data.rows import read_jsonl
from cd4lm.decoding import DecodingOptions, generate
from cd4lm.decoding.panel import shown_path
from cd4lm.io import write_json, write_text
from cd4lm.model.loading import load_for_inference
from cd4lm.settings import ExperimentConfig
from evaluation.compare import compare
from evaluation.embedded import model_names
from evaluation.html_page import html_page
from evaluation.report import equal_accuracy_note, family_table, interval, plot_frontier, reference_table, run_table
from evaluation.run import Run
from evaluation.trace_page import run_trace, trace_page
from evaluation.training_plot import PARTS, plot_logs

SPLITS = {
    "numbers": "known questions with new numbers",
    "questions": "questions never seen in training",
    "test": "whose arithmetic occurs nowhere in training (test split)",
    "validation": "none of which is trained on (validation split)",
}
PAGE = """# {title}

{headline}

![accuracy against forward passes](frontier.png)

## Equal accuracy

{families}

{note}

## Every run

{runs}

{reference}

{caches}## How it was measured

- {documents} held-out problems, {split}; thresholds are chosen on the validation split.
- Students: {length} of {rows} rows, seed {seed}; answers: {answers}. One training seed: the intervals cover the problems,
  not the seeds, so a difference between two students is a number and not a verdict.
- Every run is the same decode loop and stops a row once everything before its first EOS is committed. NFE and tokens are
  counted up to there, so padding flatters nobody. Seconds are one pass of each run beside those of other models, a core
  each, and move with whatever else the machine does: two runs of equal NFE can differ by half.
- {device}, weights in {dtype}, commit `{commit}`. Last digits move with the processor.

![training](training.png)
"""


def in_words(config: ExperimentConfig, compared: dict, thresholds: dict[str, float]) -> str:
    """Three lines for a reader who knows none of the terms, and where to look further."""
    runs, models = compared["runs"], model_names(config)
    reference = runs[compared["reference"]]
    own = list(models)[1]
    other = next((name for name in models if name.startswith("control")), "teacher")

    def said(name: str) -> str:
        run = runs[f"{name} + cad, confidence_threshold={thresholds[name]:g}"]
        fewer = reference["nfe"] / run["nfe"]
        return f"{100 * run['accuracy']:.1f} % right with {run['nfe']:.1f} passes, {fewer:.1f} times fewer"

    what = {"teacher": "The teacher itself, committing every token it is sure of"}
    control = "The control, the same student trained without the teacher's distributions"
    return "\n".join(
        [
            f"The teacher, one token per forward pass: {100 * reference['accuracy']:.1f} % of {compared['documents']} "
            f"unseen problems right with {reference['nfe']:.1f} passes each.",
            f"The {own}, committing every token it is sure of: {said(own)}.",
            f"{what.get(other, control)}: {said(other)}.",
            f"Tables, plots and two answers forming: {config.results_dir}/report.html (open it in a browser)",
        ]
    )


def summary(config: ExperimentConfig) -> str:
    """What `in_words` said when the report was written."""
    return (Path(config.results_dir) / "summary.txt").read_text(encoding="utf-8")


def two_answers(config: ExperimentConfig, runs: list[Run], thresholds: dict[str, float]) -> str:
    """The page of one problem that teacher and student get right: one token per step beside CAD."""
    evaluate, models = config.evaluate, model_names(config)
    own = list(models)[1]
    steps = f"teacher + fixed, steps={evaluate.gen_length}"
    shown = [steps, f"{own} + cad, confidence_threshold={thresholds[own]:g}"]
    named = {run.name: run for run in runs}
    both = named[shown[0]].right * named[shown[1]].right
    row = named[shown[0]].documents[int(both.argmax())]["doc"]  # the first that both get right, else the first
    traces = []
    for name in shown:
        about = named[name].about
        decoder = DecodingOptions.parse(about["decoder"]).for_checkpoint(about["model"]["folder"])
        model, tokenizer = load_for_inference(about["model"]["folder"])
        (g,) = generate(
            model, tokenizer, [torch.tensor(encode_prompt(tokenizer, row["question"]))], decoder, batch_size=1
        )
        traces.append(run_trace(name, shown_path(about["model"]["folder"]), g.result, tokenizer.decode))
    return trace_page(row["question"], traces)


def headline(config: ExperimentConfig, compared: dict, thresholds: dict[str, float]) -> str:
    """What each model with CAD at its threshold differs in from the teacher at one token per step."""
    evaluate = config.evaluate
    how = (
        f"With CAD at threshold {evaluate.headline:g}"
        if evaluate.headline is not None
        else (
            f"With CAD at the threshold that {evaluate.validation_problems} validation problems choose for each model"
        )
    )
    lines = [f"{how}, against the teacher at one token per step:", ""]
    for name, threshold in thresholds.items():
        p = compared["against_reference"][f"{name} + cad, confidence_threshold={threshold:g}"]
        own = "" if evaluate.headline is not None else f" at {threshold:g}"
        lines.append(
            f"- {name}{own}: {interval(p['accuracy_difference'], 100, '+.1f')} points (exact McNemar p = {p['mcnemar_p']:.2g}), "
            f"{interval(p['fewer_nfe'])} times fewer NFE"
        )
    return "\n".join(lines)


def page(config: ExperimentConfig, runs: list[Run], compared: dict, thresholds: dict[str, float]) -> str:
    """report.md."""
    train, answers = config.train, "the data set's"
    if config.data.answers == "teacher":
        answers = "the teacher's own" + (", filtered to the right ones" if config.data.keep == "right" else "")
        if config.data.answers_cache != "none":
            answers += f", decoded with the approximate cache {config.data.answers_cache}"
    caches = compared["exact_caches"]
    methods = [name.removesuffix(" student") for name in model_names(config) if name.endswith(" student")]
    same = f"The exact cache changed no answer in {sum(c['same'] for c in caches)} of {len(caches)} runs.\n\n"
    return PAGE.format(
        title="CDLM, DSCD, their combination, and CAD"
        if config.cdlm is not None
        else f"What {', '.join(methods)} and CAD bring",
        headline=headline(config, compared, thresholds),
        families=family_table(compared),
        note=equal_accuracy_note(compared),
        runs=run_table(compared, timed=False),
        reference=reference_table(compared, timed=False),
        caches=same if caches else "",
        documents=compared["documents"],
        split=SPLITS[config.evaluate.split],
        length=f"{train.max_steps} steps" if train.max_steps else f"{train.epochs:g} epochs",
        rows=train.batch_size * train.accumulation,
        seed=train.seed,
        answers=answers,
        device=runs[0].about["provenance"]["device"],
        dtype=runs[0].about.get("dtype", "float32"),
        commit=runs[0].about["provenance"]["commit"],
    )


def write_report(config: ExperimentConfig, runs: list[Run], thresholds: dict[str, float]) -> None:
    """Write report.html, report.md, comparison.json, both plots and summary.txt into the experiment's results_dir."""
    output = Path(config.results_dir)
    reference = next(run.name for run in runs if run.about["decoder"].get("steps") == config.evaluate.gen_length)
    compared = compare(runs, reference, config.evaluate.margin)
    write_json(output / "comparison.json", compared)
    plot_frontier(runs, compared, output / "frontier.png")
    students = {name: folder.parent for name, folder in model_names(config).items() if name != "teacher"}
    logs = {name: read_jsonl(folder / "training_log.jsonl") for name, folder in students.items()}
    plot_logs(logs, PARTS, output / "training.png")
    text = page(config, runs, compared, thresholds)
    write_text(output / "report.md", text)
    write_text(output / "summary.txt", in_words(config, compared, thresholds) + "\n")
    write_text(output / "report.html", html_page(text, output, two_answers(config, runs, thresholds)))
