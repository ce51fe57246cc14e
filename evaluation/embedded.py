"""Every model of an experiment with every decoder of its grid, on held-out problems.

    python -m evaluation.embedded configs/tiny.yaml [key=value ...]

Each run is stored as soon as it is measured, so an interruption loses at most one. Writes report.md, comparison.json,
frontier.png and training.png into the experiment's output_dir; with evaluate.split=validation, where settings are chosen,
into its folder `validation`, and of gsm8k_numbers with evaluate.split=numbers or questions into folders of those names.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from cd4lm.config import command_line, exit_with_message, load, require
from cd4lm.data.examples import end_ids
from cd4lm.data.rows import digest, read_jsonl
from cd4lm.decoding import DecodeConfig, Decoder, DecodingOptions
from cd4lm.decoding.options import SETTINGS
from cd4lm.io import fingerprint, provenance, weights_fingerprint, write_json, write_text
from cd4lm.model.loading import load_config, load_for_inference, tokenizer_for_inference
from cd4lm.objectives import OBJECTIVES
from cd4lm.settings import EvaluateConfig, ExperimentConfig
from evaluation.compare import compare
from evaluation.measure import measure, scorer
from evaluation.report import equal_accuracy_note, family_table, interval, plot_frontier, reference_table, run_table
from evaluation.run import Run

PARTS = {
    "reconstruction": "cross-entropy, nats",
    "consistency": "consistency, nats",
    "distillation": "distillation, nats",
    "certainty": "entropy where right, nats",
    "denoising": "masked denoising, nats",
    "lambda": "lambda",
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

- {documents} held-out problems ({split} split) whose arithmetic occurs nowhere in training; thresholds are chosen on the
  validation split.
- Students: {length} of {rows} rows, seed {seed}; answers: {answers}. One training seed: the intervals cover the problems,
  not the seeds, so a difference between two students is a number and not a verdict.
- Every run is the same decode loop and stops a row once everything before its first EOS is committed. NFE and tokens are
  counted up to there, so padding flatters nobody. Seconds are one pass of each run, in turn, and move with whatever else
  the machine does: two runs of equal NFE can differ by half.
- {device}, commit `{commit}`. Last digits move with the processor.

![training](training.png)
"""


def model_names(config: ExperimentConfig) -> dict[str, Path]:
    """The checkpoints to compare, by the name the report gives them."""
    output = Path(config.output_dir)
    students = {name: f"{label} student" for name, label in OBJECTIVES.items()}
    own, known = students[config.objective], students | {"control": "control (lambda = 0)"}
    names = {"teacher": Path(config.teacher), own: output / "student"}
    return names | {known.get(name, name.replace("_", " ")): output / name / "student" for name in config.also}


def base_options(config: EvaluateConfig) -> DecodingOptions:
    """What every decoder of the grid has in common unless it says otherwise."""
    return DecodingOptions(
        gen_length=config.gen_length,
        block_length=config.block_length,
        eos_threshold_ratio=config.eos_hold_ratio,
        seed=config.seed,
        cache="none",
    )


def decoders(config: EvaluateConfig, name: str, model_config, ends: tuple[int, ...]) -> list[Decoder]:
    """Fixed numbers of steps, CAD thresholds, then what `decoders` adds; with the exact cache too if block-causal.

    One token per step, which takes longest, is left out for the control. Raises ValueError for what cannot be decoded.
    """
    base, control = base_options(config), name.startswith("control")
    budgets = [steps for steps in config.fixed_steps if not control or steps < config.gen_length]
    asked = [replace(base, steps=steps) for steps in budgets]
    asked += [replace(base, confidence_threshold=tau) for tau in config.thresholds]
    asked += [options.completed(base) for options in config.decoders]
    if model_config.attention == "block_causal":
        asked += [replace(options, cache="block") for options in asked if options.cache == "none"]
    found = [options.decoder(model_config, ends) for options in asked]
    for i, decoder in enumerate(found):
        require(decoder not in found[:i], f"evaluate.decoders: {decoder.name} is in the grid twice, leave one out")
    return found


def run_name(config: EvaluateConfig, model: str, decoder: Decoder) -> str:
    """Model, policy, and the settings in which a decoder differs from the rest of the grid."""
    about, usual = decoder.about(), vars(base_options(config))
    usual = {o: vars(DecodeConfig)[field] if usual[o] is None else usual[o] for o, field in SETTINGS.items()}
    words = [f", {option}={about[option]}" for option in usual if about[option] != usual[option] and option != "cache"]
    cache = {"none": "", "block": ", exact cache"}
    return f"{model} + {decoder.name}{''.join(words)}{cache.get(about['cache'], ', cache=' + about['cache'])}"


def read_problems(config: ExperimentConfig) -> list[dict]:
    """The problems of the split that the experiment evaluates. Raises ValueError if there are too few."""
    file = Path(config.data.dir) / f"{config.evaluate.split}.jsonl"
    require(file.is_file(), f"{file} does not exist: run scripts/run_experiment.py, which prepares it, first")
    rows = read_jsonl(file)[: config.evaluate.problems]
    require(len(rows) == config.evaluate.problems, f"{file} holds only {len(rows)} problems")
    return rows


def stored_run(folder: Path, key: str) -> Run | None:
    """A run measured before with the same weights, problems and decoder."""
    run = Run.read(folder) if (folder / "run.json").is_file() else None
    return run if run is not None and run.about["key"] == key else None


def run_grid(config: ExperimentConfig, keep: Callable[[str, Decoder], bool] = lambda name, decoder: True) -> list[Run]:
    """All runs of the grid that are kept, measured or read back."""
    rows, evaluate = read_problems(config), config.evaluate
    models = model_names(config)
    for folder in models.values():
        require((folder / "config.json").is_file(), f"{folder} holds no checkpoint: train it first")
    grid = {
        name: [
            decoder
            for decoder in decoders(evaluate, name, load_config(folder), end_ids(tokenizer_for_inference(folder)))
            if keep(name, decoder)
        ]
        for name, folder in models.items()
    }
    runs = []
    with tqdm(total=sum(map(len, grid.values())), desc="runs", unit="run") as bar:
        for name, folder in models.items():
            weights, loaded = weights_fingerprint(folder), None
            for decoder in grid[name]:
                key = fingerprint(weights, digest(rows), decoder.about())
                place = Path(config.results_dir) / "runs" / fingerprint(name, decoder.about())
                run = stored_run(place, key)
                if run is None:
                    loaded = loaded or load_for_inference(folder)
                    how = {"batch_size": evaluate.batch_size, "score": scorer(config.data.dataset)}
                    documents = measure(*loaded, rows, decoder, **how, label=run_name(evaluate, name, decoder))
                    model = {"name": name, "folder": str(folder), "weights": weights}
                    about = {"name": run_name(evaluate, name, decoder), "task": config.data.dataset, "model": model}
                    about |= {"decoder": decoder.about(), "seed": evaluate.seed, "batch_size": evaluate.batch_size}
                    run = Run(about | {"key": key, "provenance": provenance()}, documents)
                    run.write(place)
                runs.append(run)
                bar.set_postfix_str(f"{run.name}: {run.right.mean():.1%} at {run.column('nfe').mean():.1f} NFE")
                bar.update()
    return runs


def thresholds_of(config: ExperimentConfig) -> dict[str, float]:
    """CAD's threshold in the report's first sentence for each model: the one given, or its own, chosen on validation."""
    names, evaluate = model_names(config), config.evaluate
    if evaluate.headline is not None:
        return dict.fromkeys(names, evaluate.headline)
    there = replace(evaluate, split="validation", problems=evaluate.validation_problems)

    def is_tried(name: str, decoder: Decoder) -> bool:
        one_token = name == "teacher" and decoder.about().get("steps") == evaluate.gen_length
        return one_token or (decoder.policy_name == "cad" and decoder.config.cache == "none")

    runs = run_grid(replace(config, evaluate=there), is_tried)
    reference = next(run for run in runs if run.about["decoder"].get("steps") == evaluate.gen_length)
    tried = {
        name: [run for run in runs if run.about["model"]["name"] == name and run is not reference] for name in names
    }
    best = {name: cheapest(own, reference.right.mean() - evaluate.margin) for name, own in tried.items()}
    return {name: run.about["decoder"]["confidence_threshold"] for name, run in best.items()}


def cheapest(runs: list[Run], target: float) -> Run:
    """Of the runs that are right as often as `target` the one of fewest forward passes; else the most accurate of all."""
    enough = [run for run in runs if run.right.mean() >= target]
    return min(enough or runs, key=lambda run: run.column("nfe").mean() if enough else -run.right.mean())


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
        runs=run_table(compared),
        reference=reference_table(compared),
        caches=same if caches else "",
        documents=compared["documents"],
        split=config.evaluate.split,
        length=f"{train.max_steps} steps" if train.max_steps else f"{train.epochs:g} epochs",
        rows=train.batch_size * train.accumulation,
        seed=train.seed,
        answers=answers,
        device=runs[0].about["provenance"]["device"],
        commit=runs[0].about["provenance"]["commit"],
    )


def plot_training(config: ExperimentConfig, path: Path) -> None:
    """The parts of each student's loss over the steps; a part that only some students have is theirs alone."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    students = {name: folder.parent for name, folder in model_names(config).items() if name != "teacher"}
    logs = {name: read_jsonl(folder / "training_log.jsonl") for name, folder in students.items()}
    present = [key for key in PARTS if any(key in entry for log in logs.values() for entry in log)]
    figure, panels = plt.subplots(1, len(present), figsize=(3.7 * len(present), 3.4), squeeze=False)
    for axes, key in zip(panels[0], present, strict=True):
        for i, (name, log) in enumerate(logs.items()):
            points = [(entry["step"], entry[key]) for entry in log if key in entry]
            if points:
                axes.plot(*zip(*points, strict=True), color=f"C{i}", label=name)
        axes.set_title(PARTS[key], fontsize=10)
        axes.set_xlabel("optimizer step")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def write_report(config: ExperimentConfig, runs: list[Run], thresholds: dict[str, float]) -> None:
    """Write comparison.json, report.md, frontier.png and training.png into the experiment's results_dir."""
    output = Path(config.results_dir)
    reference = next(run.name for run in runs if run.about["decoder"].get("steps") == config.evaluate.gen_length)
    compared = compare(runs, reference, config.evaluate.margin)
    write_json(output / "comparison.json", compared)
    plot_frontier(runs, compared, output / "frontier.png")
    plot_training(config, output / "training.png")
    write_text(output / "report.md", page(config, runs, compared, thresholds))


def main():
    config = load(ExperimentConfig, *command_line(__doc__))
    require(config.evaluate is not None, "this config has no `evaluate` section: use evaluation/scripts for benchmarks")
    thresholds = thresholds_of(config)
    write_report(config, run_grid(config), thresholds)
    print(f"wrote {config.results_dir}/report.md")


if __name__ == "__main__":
    exit_with_message(main)
