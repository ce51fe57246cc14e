"""Run every model with every decoder of an experiment's grid on held-out problems, and write the report.

    python -m evaluation.compare_decoders configs/tiny.yaml [key=value ...]

Each cell of the grid is stored as soon as it is measured, so an interrupted run loses at most one. Writes results.json,
report.md, pareto.png and training.png into the experiment's output_dir; with evaluate.split=validation, where settings
are chosen, into its folder `validation`.
"""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from cd4lm.config import command_line, exit_with_message, load, require
from cd4lm.data import tiny_task
from cd4lm.data.examples import end_ids
from cd4lm.data.rows import digest, read_jsonl
from cd4lm.decoding import ConfidenceAdaptive, DecodeConfig, FixedSteps
from cd4lm.model.loading import load_config, load_for_inference
from cd4lm.settings import EvaluateConfig, ExperimentConfig
from evaluation.measure import latency, measure, summarise
from evaluation.report import write_report


@dataclass(frozen=True)
class Decoder:
    """A decoder of the grid: the family it belongs to in plots, its setting, the policy, and what is recomputed."""

    family: str
    setting: float
    policy: object
    cache: str = "none"

    @property
    def name(self) -> str:
        return f"{self.family}-{self.setting:g}" + ("" if self.cache == "none" else f"-{self.cache}")


def decoders(config: EvaluateConfig, model: str, attention: str) -> list[Decoder]:
    """Fixed budgets, then CAD thresholds; a block-causal model with the exact cache too.

    The control is there to be compared under CAD alone.
    """
    fixed = [Decoder("fixed", steps, FixedSteps(steps=steps)) for steps in config.fixed_steps]
    cad = [Decoder("CAD", tau, ConfidenceAdaptive(threshold=tau)) for tau in config.thresholds]
    plain = cad if model == "control" else fixed + cad
    return plain if attention == "bidirectional" else plain + [replace(decoder, cache="block") for decoder in plain]


def models_of(config: ExperimentConfig) -> dict[str, Path]:
    """The checkpoints to compare, by the name the report gives them."""
    output = Path(config.output_dir)
    models = {"teacher": Path(config.teacher), "student": output / "student"}
    return models | {name: output / name / "student" for name in config.also}


def settings_of(model, tokenizer, config: EvaluateConfig, cache: str) -> DecodeConfig:
    """What the experiment fixes for every decoder of its grid, with this cache."""
    return DecodeConfig(
        mask_id=model.config.mask_token_id,
        eos_ids=end_ids(tokenizer),
        gen_length=config.gen_length,
        block_length=config.block_length,
        eos_hold_ratio=config.eos_hold_ratio,
        cache=cache,
        seed=config.seed,
    )


def fingerprint(folder: Path, rows: list[dict], config: EvaluateConfig) -> str:
    """What a stored cell must have been measured with to be used again: weights, problems, decoding settings."""
    require((folder / "model.safetensors").is_file(), f"{folder} holds no model.safetensors: train it first")
    weights = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    settings = [config.gen_length, config.block_length, config.eos_hold_ratio, config.latency_problems, config.seed]
    return hashlib.sha256(f"{weights} {digest(rows)} {settings}".encode()).hexdigest()


def measure_cell(model, tokenizer, rows: list[dict], decoder: Decoder, config: EvaluateConfig, label: str) -> dict:
    """What one cell of the grid holds, but for its means."""
    settings = settings_of(model, tokenizer, config, decoder.cache)
    cell = measure(
        model,
        tokenizer,
        rows,
        decoder.policy,
        settings,
        batch_size=config.batch_size,
        score=tiny_task.score,
        label=label,
    )
    some = rows[: config.latency_problems]
    return cell | {
        "latency": latency(model, tokenizer, some, decoder.policy, settings),
        "family": decoder.family,
        "setting": decoder.setting,
        "cache": decoder.cache,
    }


def run_grid(config: ExperimentConfig) -> dict:
    """All cells of the grid, measured or read back, as {model: {decoder name: cell}}."""
    problems = Path(config.data.dir) / f"{config.evaluate.split}.jsonl"
    require(problems.is_file(), f"{problems} does not exist: run scripts/run_experiment.py, which prepares it, first")
    rows = read_jsonl(problems)[: config.evaluate.problems]
    require(len(rows) == config.evaluate.problems, f"{problems} holds only {len(rows)} problems")
    store = Path(config.results_dir) / "cells"
    store.mkdir(parents=True, exist_ok=True)
    models = models_of(config)
    grid = {name: decoders(config.evaluate, name, load_config(folder).attention) for name, folder in models.items()}
    cells: dict[str, dict] = {name: {} for name in models}
    with tqdm(total=sum(map(len, grid.values())), desc="grid", unit="cell") as bar:
        for name, folder in models.items():
            mark = fingerprint(folder, rows, config.evaluate)
            loaded = None
            for decoder in grid[name]:
                file = store / f"{name}-{decoder.name}.json"
                cell = json.loads(file.read_text()) if file.is_file() else {}
                if cell.get("fingerprint") != mark:
                    loaded = loaded or load_for_inference(folder)
                    cell = measure_cell(*loaded, rows, decoder, config.evaluate, f"{name} {decoder.name}")
                    cell |= {"fingerprint": mark}
                    cell |= summarise(cell)
                    file.with_suffix(".partial").write_text(json.dumps(cell))
                    file.with_suffix(".partial").rename(file)
                cells[name][decoder.name] = cell
                bar.set_postfix_str(f"{name} {decoder.name}: {cell['accuracy']:.1%} at {cell['nfe']:.1f} NFE")
                bar.update()
    return cells


def main():
    config = load(ExperimentConfig, *command_line(__doc__))
    require(config.evaluate is not None, "this config has no `evaluate` section: use evaluation/scripts for benchmarks")
    write_report(config, run_grid(config))
    print(f"wrote {config.results_dir}/report.md")


if __name__ == "__main__":
    exit_with_message(main)
