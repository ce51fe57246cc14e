"""Prepare a data set for training: split it, optionally let the teacher answer it, and write a manifest.

    python scripts/prepare_data.py --dataset tiny --output_dir data/tiny
    python scripts/prepare_data.py --dataset gsm8k_numbers --output_dir data/gsm8k_numbers [--source train.jsonl]
    python scripts/prepare_data.py --dataset gsm8k --output_dir data/gsm8k [--source train.jsonl] [--max_samples N]
    python scripts/prepare_data.py --dataset bs17k --output_dir data/bs17k [--source rows.parquet]
    python scripts/prepare_data.py --dataset tiny --output_dir data/own --answers teacher --teacher checkpoints/tiny_teacher

Writes train.jsonl, validation.jsonl (for tiny test.jsonl too; for gsm8k_numbers numbers.jsonl, known questions with other
numbers, and questions.jsonl, questions never seen) and manifest.json; all or nothing. Rows whose questions are
equal but for case, spacing and Unicode's compatible forms go to the same split.
"""

import argparse
import shutil
from dataclasses import asdict
from itertools import chain
from pathlib import Path

from cd4lm.config import CommandParser, build, exit_with_message, require
from cd4lm.data import gsm8k_numbers, tiny_task
from cd4lm.data.gsm8k_numbers import NumbersWorld
from cd4lm.data.rows import digest, write_jsonl
from cd4lm.data.splits import NUMBERS, SOURCES, TINY, build_splits, repeated, revision_of
from cd4lm.data.tiny_task import DEFAULT, WORDINGS, World
from cd4lm.decoding.options import DecodingOptions
from cd4lm.io import write_json
from cd4lm.workers import cpu_pool, cpu_processes

GENERATED = {TINY: tiny_task, NUMBERS: gsm8k_numbers}
DIALS = {
    TINY: (World, ("wordings", "chain")),
    NUMBERS: (NumbersWorld, ("templates", "largest", "steps", "tokens", "spread")),
}


def world_of(arguments: argparse.Namespace) -> World | NumbersWorld:
    """The dials of a data set whose rows are generated."""
    cls, names = DIALS.get(arguments.dataset, DIALS[TINY])
    return build(cls, {name: vars(arguments)[name] for name in names}, "--")


def about_world(arguments: argparse.Namespace, world: World | NumbersWorld) -> dict:
    """What the manifest says of a generated data set: its dials, and of templates how many there are and why not more."""
    if arguments.dataset != NUMBERS:
        return {"world": asdict(world)} if arguments.dataset == TINY else {}
    counts, pool = gsm8k_numbers.sourced(world, arguments.source)
    used = {"known": len(pool.known), "unseen": len(pool.unseen), "words": len(pool.words)}
    licence = {"licence": gsm8k_numbers.LICENCE, "templates": counts | used, "instances": pool.instances()}
    return {"world": asdict(world), **licence}


def parse() -> argparse.Namespace:
    parser = CommandParser(__doc__)
    parser.add_argument("--dataset", required=True, choices=[*SOURCES, TINY, NUMBERS])
    parser.add_argument("--output_dir", required=True, type=Path)
    parser.add_argument(
        "--max_samples", type=int, help="rows to take before splitting (tiny and gsm8k_numbers: training rows)"
    )
    parser.add_argument(
        "--source", help="local .jsonl, .json, .csv, .tsv (also .gz) or .parquet file instead of the hub"
    )
    parser.add_argument("--seed", type=int, default=42, help="of the split (tiny and gsm8k_numbers: of the problems)")
    world = parser.add_argument_group("dials of the embedded task")
    world.add_argument("--wordings", type=int, default=DEFAULT.wordings, help=f"of a step, 1 to {len(WORDINGS)}")
    world.add_argument("--chain", type=int, nargs="+", default=DEFAULT.chain, help="steps of a problem, each as likely")
    numbers, usual = parser.add_argument_group("dials of gsm8k_numbers"), gsm8k_numbers.DEFAULT
    numbers.add_argument("--templates", type=int, help="questions, the held-out ones among them (default all)")
    numbers.add_argument("--largest", type=int, default=usual.largest, help="number of a question or result")
    numbers.add_argument("--steps", type=int, nargs=2, default=usual.steps, help="fewest and most of an answer")
    numbers.add_argument("--tokens", default=usual.tokens, help="digits or numbers, of the tokenizer")
    numbers.add_argument(
        "--spread", type=int, default=usual.spread, help="times a number at most, or its part at least"
    )
    parser.add_argument("--answers", choices=["data", "teacher"], default="data")
    teacher = parser.add_argument_group("with --answers teacher")
    teacher.add_argument("--teacher", help="checkpoint folder or hub name")
    teacher.add_argument("--threshold", type=float, default=0.95, help="of CAD")
    teacher.add_argument("--temperature", type=float, default=0.0)
    teacher.add_argument("--gen_length", type=int, default=256, help="longest answer in tokens")
    teacher.add_argument("--block_length", type=int, default=32)
    teacher.add_argument("--batch_size", type=int, default=128)
    teacher.add_argument(
        "--cache", choices=["none", "prefix", "dual"], default="none", help="the last two: approximate"
    )
    teacher.add_argument("--keep", choices=["right", "all"], default="right", help="right: checked by the metric")
    return parser.parse_args()


def answer(rows: list[dict], arguments: argparse.Namespace) -> list[dict]:
    """Rows with the teacher's answers: on a CPU each core answers a share of them, which changes no answer."""
    require(arguments.teacher is not None, "--answers teacher needs --teacher: the checkpoint that answers")
    checks = arguments.dataset in GENERATED and arguments.keep == "right"
    require(checks or arguments.keep == "all", f"no checker for {arguments.dataset} answers: pass --keep all")
    check_decoder(arguments)  # before other processes would say what is wrong with it
    processes = cpu_processes(len(rows) // arguments.batch_size + 1)
    share = -(-len(rows) // processes)
    parts = [(rows[i : i + share], i, arguments) for i in range(0, len(rows), share)]
    if processes == 1:
        return answer_part(*parts[0])
    with cpu_pool(processes) as pool:
        return list(chain(*pool.map(answer_part, *zip(*parts, strict=True))))


def check_decoder(arguments: argparse.Namespace) -> None:
    """Raise ValueError for a teacher or settings that cannot answer, before weights are read."""
    from cd4lm.data.examples import end_ids
    from cd4lm.model.loading import load_config, tokenizer_for_inference

    ends = end_ids(tokenizer_for_inference(arguments.teacher))
    options_of(arguments).decoder(load_config(arguments.teacher), ends)


def options_of(arguments: argparse.Namespace) -> DecodingOptions:
    return DecodingOptions(
        confidence_threshold=arguments.threshold,
        temperature=arguments.temperature,
        gen_length=arguments.gen_length,
        block_length=arguments.block_length,
        cache=arguments.cache,
        seed=arguments.seed,
    )


def answer_part(rows: list[dict], first: int, arguments: argparse.Namespace) -> list[dict]:
    """Some rows with the teacher's answers, in this process; first: place of the first among all."""
    from cd4lm.data.examples import end_ids
    from cd4lm.model.loading import load_for_inference
    from cd4lm.training.generate_targets import own_answers

    teacher, tokenizer = load_for_inference(arguments.teacher)
    decoder = options_of(arguments).decoder(teacher.config, end_ids(tokenizer))
    how = {"batch_size": arguments.batch_size, "first": first}
    is_right = GENERATED[arguments.dataset].score if arguments.keep == "right" else None
    return own_answers(teacher, tokenizer, rows, decoder, is_right=is_right, **how)


def main():
    arguments = parse()
    final = arguments.output_dir
    require(
        not (final / "manifest.json").exists(),
        f"{final} already holds a prepared data set: delete it or choose another",
    )
    require(
        not final.exists() or not any(final.iterdir()),
        f"{final} holds files but no manifest.json: it is no prepared data set; choose another folder",
    )
    require(arguments.max_samples is None or arguments.max_samples > 0, "--max_samples must be positive")
    world = world_of(arguments)
    partial = final.with_name(final.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)  # before the long work, so that a folder that cannot be written stops it
    try:
        revision = revision_of(arguments.dataset, arguments.source)
        how = (arguments.max_samples, arguments.seed, world)
        splits = build_splits(arguments.dataset, arguments.source, revision, *how)
        asked, repeats = len(splits["train"]), repeated(chain(*splits.values()))
        if arguments.answers == "teacher":
            splits["train"] = answer(splits["train"], arguments)
            require(bool(splits["train"]), "the teacher gave no usable answer: check --teacher and --gen_length")
        for split, rows in splits.items():
            write_jsonl(partial / f"{split}.jsonl", rows)
        source = arguments.source or (
            SOURCES[arguments.dataset].hub_name
            if arguments.dataset in SOURCES
            else gsm8k_numbers.SOURCE
            if arguments.dataset == NUMBERS
            else "generated"
        )
        manifest = {
            "dataset": arguments.dataset,
            "source": source,
            "revision": revision,
            "seed": arguments.seed,
            "answers": arguments.answers,
            "counts": {split: len(rows) for split, rows in splits.items()},
            "repeated_questions": repeats,
            **about_world(arguments, world),
            "sha256": {split: digest(rows) for split, rows in splits.items()},
        }
        if arguments.answers == "teacher":
            names = ("teacher", "threshold", "temperature", "gen_length", "block_length", "cache", "keep")
            manifest["own_answers"] = {name: vars(arguments)[name] for name in names} | {"questions": asked}
        write_json(partial / "manifest.json", manifest)
        partial.rename(final)  # fails on a folder that has been filled since, which must not be overwritten
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    said = [f"{count} {split}" for split, count in manifest["counts"].items()]
    if repeats and arguments.dataset in SOURCES:
        said.append(f"{repeats} rows repeat a question and stay in the split of the first")
    print(f"{final}: " + ", ".join(said))


if __name__ == "__main__":
    exit_with_message(main)
