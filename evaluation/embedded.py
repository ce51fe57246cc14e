"""Every model of an experiment with every decoder of its grid, on held-out problems.

    python -m evaluation.embedded configs/tiny.yaml [key=value ...]

Each run is stored as soon as it is measured, so an interruption loses at most one. Writes report.html, the same as report.md,
comparison.json, frontier.png and training.png into the experiment's output_dir; with evaluate.split=validation, where
settings are chosen, into its folder `validation`, and of gsm8k_numbers with evaluate.split=numbers or questions into
folders of those names.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from cd4lm.config import CommandParser, add_config, exit_with_message, load, require
from cd4lm.data.examples import end_ids
from cd4lm.data.rows import digest, read_jsonl
from cd4lm.decoding import DecodeConfig, Decoder, DecodingOptions
from cd4lm.decoding.options import SETTINGS
from cd4lm.io import fingerprint, provenance, weights_fingerprint
from cd4lm.model.loading import load_config, load_for_inference, tokenizer_for_inference
from cd4lm.objectives import OBJECTIVES
from cd4lm.progress import Progress
from cd4lm.settings import EvaluateConfig, ExperimentConfig
from evaluation.measure import measure, scorer
from evaluation.run import Run


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


def dtype_of(config: EvaluateConfig) -> torch.dtype | None:
    """What to decode with; None leaves it to the device."""
    return None if config.dtype == "auto" else getattr(torch, config.dtype)


def stored_run(folder: Path, key: str) -> Run | None:
    """A run measured before with the same weights, problems and decoder."""
    run = Run.read(folder) if (folder / "run.json").is_file() else None
    return run if run is not None and run.about["key"] == key else None


@dataclass(frozen=True)
class Cell:
    """One model with one decoder on the split that its config evaluates."""

    config: ExperimentConfig
    name: str
    folder: Path
    decoder: Decoder

    @property
    def place(self) -> Path:
        """Where the run is stored."""
        return Path(self.config.results_dir) / "runs" / fingerprint(self.name, self.decoder.about())

    @property
    def label(self) -> str:
        return run_name(self.config.evaluate, self.name, self.decoder)

    @property
    def passes(self) -> float:
        """About how many forward passes it takes, of a row."""
        steps = self.decoder.about().get("steps") or self.decoder.config.gen_length / 2
        return steps * self.config.evaluate.problems


def cells_of(
    config: ExperimentConfig,
    names: Sequence[str] | None = None,
    keep: Callable[[str, Decoder], bool] = lambda name, decoder: True,
) -> list[Cell]:
    """The grid of these models, None = all; keep: which of it. Raises ValueError for a model that is not there."""
    cells = []
    for name, folder in model_names(config).items():
        if names is not None and name not in names:
            continue
        require((folder / "config.json").is_file(), f"{folder} holds no checkpoint: train it first")
        ends = end_ids(tokenizer_for_inference(folder))
        found = decoders(config.evaluate, name, load_config(folder), ends)
        cells += [Cell(config, name, folder, decoder) for decoder in found if keep(name, decoder)]
    return cells


def measured(cells: Sequence[Cell]) -> list[Run]:
    """The runs of cells, measured or read back."""
    runs, loaded, folder = [], None, None
    with Progress(sum(cell.passes for cell in cells), "runs", "pass") as progress:
        for i, cell in enumerate(cells):
            rows = read_problems(cell.config)
            key = key_of(cell, rows)
            run, note = stored_run(cell.place, key), f"run {i + 1} of {len(cells)}"
            if run is None:
                if folder != cell.folder:
                    loaded, folder = load_for_inference(cell.folder, dtype_of(cell.config.evaluate)), cell.folder
                one = cell.passes / len(rows)
                run = measure_cell(cell, key, loaded, rows, lambda one=one, note=note: progress.add(one, note))
            else:
                progress.add(cell.passes, note)
            runs.append(run)
    return runs


def measure_cell(cell: Cell, key: str, loaded: tuple, rows: list[dict], on_answer: Callable[[], None]) -> Run:
    """Decode and score rows with a cell's model, loaded with its tokenizer, and store the run."""
    evaluate = cell.config.evaluate
    how = {"batch_size": evaluate.batch_size, "score": scorer(cell.config.data.dataset), "on_answer": on_answer}
    documents = measure(*loaded, rows, cell.decoder, **how, label=cell.label)
    model = {"name": cell.name, "folder": str(cell.folder), "weights": weights_fingerprint(cell.folder)}
    about = {"name": cell.label, "task": cell.config.data.dataset, "model": model}
    about |= {"decoder": cell.decoder.about(), "seed": evaluate.seed, "batch_size": evaluate.batch_size}
    about |= {"dtype": str(next(loaded[0].parameters()).dtype).removeprefix("torch.")}
    run = Run(about | {"key": key, "provenance": provenance()}, documents)
    run.write(cell.place)
    return run


def validation_cells(config: ExperimentConfig, names: Sequence[str] | None = None) -> list[Cell]:
    """What chooses each model's threshold: CAD at all of them, and the teacher at one token per step."""
    evaluate = config.evaluate
    there = replace(evaluate, split="validation", problems=evaluate.validation_problems)

    def is_tried(name: str, decoder: Decoder) -> bool:
        one_token = name == "teacher" and decoder.about().get("steps") == evaluate.gen_length
        return one_token or (decoder.policy_name == "cad" and decoder.config.cache == "none")

    return cells_of(replace(config, evaluate=there), names, is_tried)


def all_cells(config: ExperimentConfig, names: Sequence[str]) -> list[Cell]:
    """Every cell of these models that the report needs. Raises ValueError for a model that is not compared."""
    for name in names:
        require(name in model_names(config), f"--only {name!r}: use one of {', '.join(model_names(config))}")
    chosen = validation_cells(config, names) if config.evaluate.headline is None else []
    return [*chosen, *cells_of(config, names)]


def is_measured(config: ExperimentConfig, name: str) -> bool:
    """Whether every run of a model that the report needs is stored."""
    needed = (model_names(config)[name] / "config.json", Path(config.data.dir) / "manifest.json")
    if not all(file.is_file() for file in needed):
        return False
    return all(stored_run(cell.place, key_of(cell, read_problems(cell.config))) for cell in all_cells(config, [name]))


def key_of(cell: Cell, rows: list[dict]) -> str:
    """What a run's numbers depend on: weights and, unless it is left to the device, their type, problems and decoder."""
    named = [cell.config.evaluate.dtype] if cell.config.evaluate.dtype != "auto" else []
    return fingerprint(weights_fingerprint(cell.folder), digest(rows), cell.decoder.about(), *named)


def work_of(config: ExperimentConfig, name: str) -> float:
    """About how many forward passes of a row the runs of a model take, before the model is there."""
    evaluate, half = config.evaluate, config.evaluate.gen_length / 2
    steps = sum(n for n in evaluate.fixed_steps if not name.startswith("control") or n < evaluate.gen_length)
    adaptive = half * len(evaluate.thresholds)
    chosen = 0 if evaluate.headline is not None else adaptive + (evaluate.gen_length if name == "teacher" else 0)
    tested = steps + adaptive + half * len(evaluate.decoders)
    return tested * evaluate.problems + chosen * evaluate.validation_problems


def run_grid(config: ExperimentConfig) -> list[Run]:
    """All runs of the grid, measured or read back."""
    return measured(cells_of(config))


def thresholds_of(config: ExperimentConfig) -> dict[str, float]:
    """CAD's threshold in the report's first sentence for each model: the one given, or its own, chosen on validation."""
    names, evaluate = model_names(config), config.evaluate
    if evaluate.headline is not None:
        return dict.fromkeys(names, evaluate.headline)
    runs = measured(validation_cells(config))
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


def main():
    parser = CommandParser(__doc__)
    add_config(parser)
    parser.add_argument(
        "--only", action="append", metavar="MODEL", help="measure the runs of this model, write no report"
    )
    arguments = parser.parse_args()
    config = load(ExperimentConfig, arguments.config, arguments.overrides)
    require(config.evaluate is not None, "this config has no `evaluate` section: use evaluation/scripts for benchmarks")
    if arguments.only is not None:
        measured(all_cells(config, arguments.only))
        return
    from evaluation.embedded_report import write_report

    thresholds = thresholds_of(config)
    write_report(config, run_grid(config), thresholds)
    print(f"wrote {config.results_dir}/report.html and report.md")


if __name__ == "__main__":
    exit_with_message(main)
