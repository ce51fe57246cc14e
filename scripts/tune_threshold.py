"""Pick a policy's main parameter on validation data and write it into the checkpoint's generation settings.

    python scripts/tune_threshold.py --model_path checkpoints/tiny_teacher --data data/tiny --max_loss 0.01
    python scripts/tune_threshold.py --model_path DIR --data data/gsm8k --metric gsm8k --policy factor --accuracy 0.75

Takes the fastest value that reaches --accuracy, or that loses at most --max_loss to one token per step. Values are
tried by bisection: a looser value is faster and, up to the noise of a few problems, less often right, so four runs do
what fourteen would; --search grid runs all. The chosen value's accuracy is flattered by the choice: report another
split's. The demo, the generators and the evaluation then use the settings by default.
"""

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path

from common import Generator, add_generation_options, check_output, write_text
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from cd4lm.config import exit_with_message, require
from cd4lm.data.rows import digest
from cd4lm.decoding import FixedSteps
from cd4lm.decoding.generation_settings import GenerationSettings
from cd4lm.decoding.policies import Policy
from cd4lm.decoding.policy_options import LIMITS, POLICIES, PolicyOptions, check_name, choose_policy
from evaluation.measure import measure, scorer, summarise
from evaluation.tuning import Trial, best, bisect, grid, ladder, read_problems

SEARCHES = {"bisect": bisect, "grid": grid}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="prepared folder, or a .jsonl of question and answer")
    parser.add_argument("--metric", default="tiny", help="checker: a module of evaluation/metrics (default tiny)")
    parser.add_argument("--policy", default="cad", metavar="NAME", help=f"one of {', '.join(POLICIES)} (default cad)")
    parser.add_argument("--accuracy", type=float, help="wanted share of right answers")
    parser.add_argument("--max_loss", type=float, help="or: at most this much under one token per step")
    parser.add_argument("--use_lower_bound", action="store_true", help="ask it of the 95 %% interval's lower end")
    parser.add_argument("--search", choices=SEARCHES, default="bisect")
    parser.add_argument("--values", help="values to try instead of ours, loosest first: 0.8,0.9,0.95")
    parser.add_argument("--max_samples", type=int, help="problems to use, default all")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--output", type=Path, help="JSON of what was tried (default: MODEL_PATH/tuning.json)")
    parser.add_argument("--dry_run", action="store_true", help="leave the checkpoint as it is")
    parser.add_argument("--allow_test_split", action="store_true", help="tune on a file named test nevertheless")
    for limit in LIMITS:
        parser.add_argument(f"--{limit}", type=int, metavar="N")
    add_generation_options(parser)
    return parser.parse_args()


def check(arguments: argparse.Namespace) -> None:
    """What can be wrong with the command line by itself."""
    check_name(arguments.policy)
    one = (arguments.accuracy is None) != (arguments.max_loss is None)
    require(one, "say what is wanted: either --accuracy 0.75 or --max_loss 0.01")
    for option in ("accuracy", "max_loss"):
        value = vars(arguments)[option]
        require(value is None or 0 <= value <= 1, f"--{option} {value} must lie in [0, 1]")
    require(arguments.max_samples is None or arguments.max_samples > 0, "--max_samples must be positive")
    folder = arguments.model_path
    if not arguments.dry_run:
        require(folder.is_dir(), f"--model_path {folder} is not a local folder: settings cannot be kept there")
        require(os.access(folder, os.W_OK), f"--model_path {folder} cannot be written: copy it, or use --dry_run")
        arguments.output = arguments.output or folder / "tuning.json"
    if arguments.output is not None:
        check_output("--output", arguments.output)


def candidates(arguments: argparse.Namespace, generator: Generator) -> dict[float, tuple[GenerationSettings, Policy]]:
    """For every value to try, the loosest first: the settings that would be written, and the policy they mean."""
    stored, name, config = GenerationSettings.load(arguments.model_path), arguments.policy, generator.config
    limits = {k: vars(stored)[k] if stored.policy == name else None for k in LIMITS}
    limits |= {k: vars(arguments)[k] for k in LIMITS if vars(arguments)[k] is not None}
    canvas = {"gen_length": config.gen_length, "block_length": config.block_length}
    found = {}
    for value in ladder(name, config, arguments.values):
        settings = replace(stored, policy=name, **{POLICIES[name].option: value}, **limits, **canvas)
        given = PolicyOptions(policy=name, **{k: vars(arguments)[k] for k in LIMITS})
        policy = choose_policy(given, settings, config.gen_length)
        generator.check(policy)
        found[value] = settings, policy
    return found


def show(arguments: argparse.Namespace, trials: list[Trial], baseline: dict | None, chosen: Trial | None) -> None:
    """The table of what was tried, the loosest first."""
    table = Table(title=f"{POLICIES[arguments.policy].option} of policy {arguments.policy}")
    for column in ("value", "right, %", "95 %", "NFE", "tokens/NFE", ""):
        table.add_column(column, justify="right")
    rows = [("one token per step", baseline, "baseline")] if baseline else []
    for trial in sorted(trials, key=lambda t: t.cell["nfe"]):
        verdict = "chosen" if trial is chosen else "enough" if trial.enough else "too low"
        rows.append((f"{trial.value:g}", trial.cell, verdict))
    for value, cell, verdict in rows:
        low, high = (f"{100 * bound:.1f}" for bound in cell["accuracy_95"])
        accuracy = f"{100 * cell['accuracy']:.1f}"
        table.add_row(
            value, accuracy, f"{low} to {high}", f"{cell['nfe']:.1f}", f"{cell['tokens_per_forward']:.2f}", verdict
        )
    Console().print(table)


def search(arguments: argparse.Namespace, values: dict, run) -> tuple[list[Trial], dict | None]:
    """The trials, and one token per step where the loss is against it; run(policy, label) measures a cell."""
    most = len(values) if arguments.search == "grid" else len(values).bit_length()
    with tqdm(total=most + (arguments.max_loss is not None), desc="tuning", unit="run") as bar:
        baseline, wanted = None, arguments.accuracy
        if arguments.max_loss is not None:
            baseline = run(FixedSteps(arguments.gen_length), "one token per step")
            wanted = baseline["accuracy"] - arguments.max_loss
            bar.update()

        def attempt(value: float) -> Trial:
            cell = run(values[value][1], f"{POLICIES[arguments.policy].option}={value:g}")
            reached = cell["accuracy_95"][0] if arguments.use_lower_bound else cell["accuracy"]
            bar.set_postfix_str(f"{value:g}: {cell['accuracy']:.1%} at {cell['nfe']:.1f} NFE")
            bar.update()
            return Trial(value, cell, reached >= wanted - 1e-9)  # 0.9 - 0.01 is not quite 0.89

        return SEARCHES[arguments.search](tuple(values), attempt), baseline


def main():
    arguments = parse()
    check(arguments)
    score = scorer(arguments.metric)
    file, rows = read_problems(arguments.data, arguments.max_samples, arguments.allow_test_split)
    generator = Generator(arguments)
    config = generator.config
    arguments.gen_length = config.gen_length
    values = candidates(arguments, generator)

    def run(policy: Policy, label: str) -> dict:
        how = {"batch_size": arguments.batch_size, "score": score, "label": label}
        cell = measure(generator.model, generator.tokenizer, rows, policy, config, **how)
        return cell | summarise(cell)

    trials, baseline = search(arguments, values, run)
    chosen = best(trials)
    show(arguments, trials, baseline, chosen)
    record = {
        "model_path": str(arguments.model_path),
        "data": {"file": str(file), "rows": len(rows), "sha256": digest(rows)},
        **{name: vars(arguments)[name] for name in ("metric", "policy", "accuracy", "max_loss", "use_lower_bound")},
        "search": arguments.search,
        "baseline": None if baseline is None else {k: v for k, v in baseline.items() if k != "problems"},
        "tried": [trial.record(baseline) for trial in trials],
        "chosen": None if chosen is None else chosen.value,
    }
    if arguments.output is not None:
        write_text(arguments.output, json.dumps(record, indent=2) + "\n")
    require(
        chosen is not None,
        f"no value of {POLICIES[arguments.policy].option} reaches it: the settings stay as they were",
    )
    if not arguments.dry_run:
        values[chosen.value][0].save(arguments.model_path)
        print(f"{arguments.model_path}: {POLICIES[arguments.policy].option}={chosen.value:g} is now its default")


if __name__ == "__main__":
    exit_with_message(main)
