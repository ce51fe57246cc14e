"""Training steps side by side: DSCD's, the published way against ours, and those of the other objectives.

    python scripts/benchmark_training.py --shape 100m --batch 4 --length 512 --output outputs/training_benchmark.json
    python scripts/benchmark_training.py --variants dscd,cdlm,dparallel,d3llm,tad    # each by its own trainer
    python scripts/benchmark_training.py --shape 8b --dtype bfloat16 --variants ours_lora,ours_checkpointing

published           two models, logits of every position of both, nothing recomputed
ours                rows of masked positions, heads and loss in chunks
ours_checkpointing  the same, with the blocks' activations recomputed
ours_lora           rank 16 on every matrix of the blocks, recomputed activations, the teacher is the same weights

A step is all forwards, the loss and the gradients; the optimizer's update, the same in all, is left out. Objectives take
one or two states of a row, with or without a teacher, so their times compare per forward pass. Every variant
runs in a process of its own, in turn, so that memory is its own and drift of the machine's speed hits all. Runs on a GPU
if there is one. Writes JSON and prints a table. Weights and tokens are random: neither changes time or memory.
"""

import argparse
import os
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import torch
from benchmarking.machine import about, markdown, require_writable
from benchmarking.shapes import DTYPES, SHAPES, add_dimension_options, config_of
from benchmarking.training_steps import VARIANTS, Work, measure

from cd4lm.config import CommandParser, exit_with_message, require
from cd4lm.io import write_json
from cd4lm.objectives import OBJECTIVES


def parse() -> argparse.Namespace:
    parser = CommandParser(__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="100m")
    add_dimension_options(parser)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=512, help="tokens per row, a quarter of them prompt")
    parser.add_argument("--chunk", type=int, default=128, help="positions whose logits exist at a time")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    known = ", ".join((*VARIANTS, *OBJECTIVES))
    parser.add_argument("--variants", default=",".join(VARIANTS), help=f"comma-separated, of {known}")
    parser.add_argument("--steps", type=int, default=2, help="timed steps per round")
    parser.add_argument("--rounds", type=int, default=2, help="times each variant is started")
    parser.add_argument("--output", type=Path, help="JSON file")
    return parser.parse_args()


def works(arguments: argparse.Namespace) -> list[Work]:
    """What to measure, in the order of VARIANTS and OBJECTIVES. Raises ValueError for options that cannot be used."""
    asked, known = arguments.variants.split(","), (*VARIANTS, *OBJECTIVES)
    for variant in asked:
        require(variant in known, f"--variants: {variant!r} is unknown, use some of {', '.join(known)}")
    for name, least in (("batch", 1), ("steps", 1), ("rounds", 1), ("chunk", 1), ("length", 8)):
        value = vars(arguments)[name]
        require(value >= least, f"--{name}={value} must be at least {least}")
    require(torch.cuda.is_available() or sys.platform == "linux", "peak memory is measured on a GPU or on Linux only")
    config, length = config_of(arguments), arguments.length
    fits = length <= config.max_sequence_length
    require(fits, f"--length={length} is above the {config.max_sequence_length} tokens of the model")
    if arguments.output is not None:
        require_writable(arguments.output.parent)
    same = {name: vars(arguments)[name] for name in ("dtype", "batch", "length", "chunk", "steps")}
    return [Work(variant, config, gradients=None, **same) for variant in known if variant in asked]


def alone(work: Work) -> dict:
    """What `measure` finds in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(measure, work).result()
        except (BrokenProcessPool, torch.OutOfMemoryError):
            message = f"{work.variant} was killed or ran out of memory: lower --batch or --length, or leave it out"
            raise ValueError(message) from None


def merge(rounds: list[dict]) -> dict:
    """Medians of time, maxima of memory and rate."""
    merged = dict(rounds[0])
    for name in ("seconds", "cpu_seconds"):
        merged[name] = median(s for record in rounds for s in record[name])
    for name in ("loss_peak", "step_peak", "total_peak", "matmul_rate"):
        if name in merged:  # an objective's loss is not measured apart
            merged[name] = max(record[name] for record in rounds)
    merged["seconds_per_pass"] = merged["seconds"] / merged["passes"]
    return merged | {"share_of_matmul_rate": merged["flops"] / merged["seconds"] / merged["matmul_rate"]}


def cells(variant: str, r: dict, base: dict) -> dict[str, str]:
    """A line of the table, with ratios to the first variant."""

    def against(key: str, scale: float = 1) -> str:
        if key not in r or key not in base:
            return "-"
        return f"{r[key] / scale:.2f} ({r[key] / base[key]:.2f}x)"

    return {
        "variant": variant,
        "loss peak, GB": against("loss_peak", 1e9),
        "step peak above weights, GB": against("step_peak", 1e9),
        "weights, GB": f"{r['weights'] / 1e9:.2f}",
        "s per step": against("seconds"),
        "s per forward pass": against("seconds_per_pass"),
        "CPU s": against("cpu_seconds"),
        "share of matmul rate": f"{r['share_of_matmul_rate']:.0%}",
    }


def run(asked: list[Work], rounds: int) -> dict:
    """All variants, round by round; the gradients of `published` and `ours` are compared in the first."""
    found = {work.variant: [] for work in asked}
    with tempfile.TemporaryDirectory() as folder:
        both = Path(folder) / "gradients.pt" if {"published", "ours"} <= set(found) else None
        for turn in range(rounds):
            for work in asked:
                print(f"round {turn + 1} of {rounds}: {work.variant} ...", file=sys.stderr, flush=True)
                found[work.variant].append(alone(replace(work, gradients=None if turn else both)))
    result = {} if both is None else {"agreement": found["ours"][0].pop("agreement")}
    return result | {"variants": {variant: merge(records) for variant, records in found.items()}}


def main():
    arguments = parse()
    asked = works(arguments)
    # Allocator settings that keep freed memory would hide what is needed.
    for name in [name for name in os.environ if name.startswith("MALLOC_")]:
        del os.environ[name]
    settings = {name: value for name, value in vars(arguments).items() if name != "output"}
    result = about() | {"settings": settings} | run(asked, arguments.rounds)
    if arguments.output is not None:
        write_json(arguments.output, result)
    print("\n".join(f"{name}: {value:.3g}" for name, value in result.get("agreement", {}).items()))
    base = next(iter(result["variants"].values()))
    print(markdown([cells(variant, r, base) for variant, r in result["variants"].items()]))


if __name__ == "__main__":
    exit_with_message(main)
