"""Pick a policy's main parameter on validation data and write it into the checkpoint's generation settings.

    python scripts/tune_threshold.py --model_path checkpoints/tiny_teacher --data data/tiny --max_loss 0.01
    python scripts/tune_threshold.py --model_path DIR --data data/gsm8k --metric gsm8k --policy factor --accuracy 0.75

Takes the fastest value that reaches --accuracy, or that loses at most --max_loss to one token per step. Values are
tried by bisection: a looser value is faster and, up to the noise of a few problems, less often right, so four runs do
what fourteen would; --search grid runs all. The chosen value's accuracy is flattered by the choice: report another
split's. The demo, the generators and the evaluation then use the settings by default.
"""

import argparse
import os
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from cd4lm.config import exit_with_message, require
from cd4lm.decoding.command_line import Answerer, parser_of
from cd4lm.decoding.options import OTHERS, POLICIES, Decoder, DecodingOptions, check_policy_name
from cd4lm.io import check_writable, write_json

OWN = [entry.option for entry in POLICIES.values()]


def parse() -> argparse.Namespace:
    parser = parser_of(__doc__, leave_out=(*OWN, "remasking", "infill", "stop_at_eos"))
    parser.add_argument("--data", type=Path, required=True, help="prepared folder, or a .jsonl of question and answer")
    parser.add_argument("--metric", default="tiny", help="how answers are scored: tiny (default), gsm8k, math500")
    parser.add_argument("--accuracy", type=float, help="wanted share of right answers")
    parser.add_argument("--max_loss", type=float, help="or: at most this much under one token per step")
    parser.add_argument("--use_lower_bound", action="store_true", help="ask it of the 95 %% interval's lower end")
    parser.add_argument("--search", choices=["bisect", "grid"], default="bisect")
    parser.add_argument("--values", help="values to try instead of ours, loosest first: 0.8,0.9,0.95")
    parser.add_argument("--max_samples", type=int, help="problems to use, default all")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--output", type=Path, help="JSON of what was tried (default: MODEL_PATH/tuning.json)")
    parser.add_argument("--dry_run", action="store_true", help="leave the checkpoint as it is")
    parser.add_argument("--allow_test_split", action="store_true", help="tune on a file named test nevertheless")
    return parser.parse_args()


def check(arguments: argparse.Namespace) -> None:
    """What can be wrong with the command line by itself."""
    arguments.policy = arguments.policy or "cad"
    check_policy_name(arguments.policy)
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
        check_writable("--output", arguments.output)


def candidates(arguments: argparse.Namespace, answerer: Answerer) -> dict[float, tuple[DecodingOptions, Decoder]]:
    """For every value to try, the loosest first: the settings that would be written, and the decoder they mean."""
    from evaluation.tuning import ladder

    options, stored = DecodingOptions.of_arguments(arguments), DecodingOptions.stored(arguments.model_path)
    name, config = arguments.policy, answerer.decoder.config
    kept = {k: vars(stored)[k] if (stored.policy or "cad") == name else None for k in OTHERS}
    kept |= {k: vars(options)[k] for k in OTHERS if vars(options)[k] is not None}
    kept |= {"gen_length": config.gen_length, "block_length": config.block_length}
    found = {}
    for value in ladder("cad" if kept["certainty"] == "confidence" else name, config, arguments.values):
        settings = replace(stored, policy=name, **{POLICIES[name].option: value}, **kept)
        found[value] = settings, options.decoder(answerer.model_config, config.eos_ids, settings)
    return found


def show(policy: str, trials: list, baseline, chosen) -> None:
    """The table of what was tried, the loosest first."""
    table = Table(title=f"{POLICIES[policy].option} of policy {policy}")
    for column in ("value", "right, %", "95 %", "NFE", "tokens/NFE", ""):
        table.add_column(column, justify="right")
    rows = [("one token per step", baseline.summary, "baseline")] if baseline else []
    for trial in sorted(trials, key=lambda t: t.summary["nfe"]):
        verdict = "chosen" if trial is chosen else "enough" if trial.enough else "too low"
        rows.append((f"{trial.value:g}", trial.summary, verdict))
    for value, s, verdict in rows:
        low, high = (f"{100 * bound:.1f}" for bound in s["accuracy_95"])
        cells = (value, f"{100 * s['accuracy']:.1f}", f"{low} to {high}", f"{s['nfe']:.1f}")
        table.add_row(*cells, f"{s['tokens_per_forward']:.2f}", verdict)
    Console().print(table)


def search(arguments: argparse.Namespace, values: dict, one_token: Decoder, run) -> tuple:
    """The trials, and one token per step where the loss is against it; run(decoder, label) measures a Run."""
    from evaluation import tuning
    from evaluation.compare import summarise

    most = len(values) if arguments.search == "grid" else len(values).bit_length()
    with tqdm(total=most + (arguments.max_loss is not None), desc="tuning", unit="run") as bar:

        def attempt(value: float, decoder: Decoder, label: str, wanted: float) -> tuning.Trial:
            found = run(decoder, label)
            summary = summarise(found)
            reached = summary["accuracy_95"][0] if arguments.use_lower_bound else summary["accuracy"]
            bar.set_postfix_str(f"{label}: {summary['accuracy']:.1%} at {summary['nfe']:.1f} NFE")
            bar.update()
            return tuning.Trial(value, found, summary, reached >= wanted - 1e-9)  # 0.9 - 0.01 is not quite 0.89

        baseline, wanted = None, arguments.accuracy
        if arguments.max_loss is not None:
            baseline = attempt(1.0, one_token, "one token per step", 0.0)
            wanted = baseline.summary["accuracy"] - arguments.max_loss
        option, how = POLICIES[arguments.policy].option, vars(tuning)[arguments.search]
        return how(tuple(values), lambda v: attempt(v, values[v][1], f"{option}={v:g}", wanted)), baseline


def main():
    arguments = parse()
    check(arguments)
    from cd4lm.data.rows import digest
    from evaluation.measure import measure, scorer
    from evaluation.run import Run
    from evaluation.tuning import best, read_problems

    score = scorer(arguments.metric)
    file, rows = read_problems(arguments.data, arguments.max_samples, arguments.allow_test_split)
    answerer = Answerer(arguments.model_path, DecodingOptions.of_arguments(arguments))
    values = candidates(arguments, answerer)
    everything = replace(DecodingOptions.of_arguments(arguments), policy="fixed", **dict.fromkeys(OTHERS))
    one_token = everything.decoder(
        answerer.model_config, answerer.decoder.config.eos_ids, DecodingOptions.stored(arguments.model_path)
    )

    def run(decoder: Decoder, label: str) -> Run:
        how = {"batch_size": arguments.batch_size, "score": score, "label": label}
        return Run({"name": label}, measure(answerer.model, answerer.tokenizer, rows, decoder, **how))

    trials, baseline = search(arguments, values, one_token, run)
    chosen = best(trials)
    show(arguments.policy, trials, baseline, chosen)
    record = {
        "model_path": str(arguments.model_path),
        "data": {"file": str(file), "rows": len(rows), "sha256": digest(rows)},
        **{name: vars(arguments)[name] for name in ("metric", "policy", "accuracy", "max_loss", "use_lower_bound")},
        "search": arguments.search,
        "baseline": None if baseline is None else baseline.summary,
        "tried": [trial.record(baseline) for trial in trials],
        "chosen": None if chosen is None else chosen.value,
    }
    if arguments.output is not None:
        write_json(arguments.output, record)
    option = POLICIES[arguments.policy].option
    require(chosen is not None, f"no value of {option} reaches it: the settings stay as they were")
    if not arguments.dry_run:
        values[chosen.value][0].save(arguments.model_path)
        print(f"{arguments.model_path}: {option}={chosen.value:g} is now its default")


if __name__ == "__main__":
    exit_with_message(main)
