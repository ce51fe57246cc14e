"""One DSCD step, the published way against ours, side by side: agreement, time, peak memory, use of the device.

    python scripts/benchmark_training.py --shape 100m --batch 4 --length 512 --output outputs/training_benchmark.json
    python scripts/benchmark_training.py --shape 8b --dtype bfloat16 --variants ours_lora,ours_checkpointing

published           two models, logits of every position of both, nothing recomputed
ours                rows of masked positions, heads and loss in chunks
ours_checkpointing  the same, with the blocks' activations recomputed
ours_lora           rank 16 on every matrix of the blocks, recomputed activations, the teacher is the same weights

A step is both forwards, the loss and the gradients; the optimizer's update, the same in all, is left out. Every variant
runs in processes of its own, in turn, so that memory is its own and drift of the machine's speed hits all. Writes JSON
and prints a table. Weights and tokens are random: neither changes time or memory.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
from benchmarking.training_shapes import Shape, add_shape_options, shape_of, step_flops
from benchmarking.training_steps import VARIANTS, LossAlone, Step, peak_memory

from cd4lm.config import exit_with_message, require
from cd4lm.training.run_log import matmul_rate


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_shape_options(parser, "100m")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=512, help="tokens per row, a quarter of them prompt")
    parser.add_argument("--chunk", type=int, default=128, help="positions whose logits exist at a time")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--variants", default=",".join(VARIANTS), help="comma-separated")
    parser.add_argument("--steps", type=int, default=2, help="timed steps per round")
    parser.add_argument("--rounds", type=int, default=2, help="times each variant is started")
    parser.add_argument(
        "--no_agreement", action="store_true", help="skip comparing gradients, which holds both at once"
    )
    parser.add_argument("--output", type=Path, help="JSON file")
    parser.add_argument("--child", help=argparse.SUPPRESS)  # the variant that a measuring process is asked for
    parser.add_argument("--gradients", type=Path, help=argparse.SUPPRESS)  # where `published` leaves them for `ours`
    return parser.parse_args()


def measure(variant: str, shape: Shape, arguments: argparse.Namespace) -> dict:
    """Time and memory of one variant in this process."""
    alone = LossAlone(variant, shape, arguments)
    before, peak = peak_memory(alone.device, alone.run)
    record = {"loss_peak": peak - before}
    del alone
    step = Step(variant, shape, arguments)
    weights = sum(
        p.numel() * p.element_size() for model in (step.student, step.teacher) if model for p in model.parameters()
    )
    wall, busy, loss = [], [], 0.0

    def run() -> None:
        nonlocal loss
        start, cpu = time.perf_counter(), time.process_time()
        loss = step.run()
        wall.append(time.perf_counter() - start)
        busy.append(time.process_time() - cpu)

    before, peak = peak_memory(step.device, run)
    if step.device.type == "cuda":  # the first step also loads kernels there
        wall.clear(), busy.clear(), run()
    for _ in range(arguments.steps - 1):
        run()
    rows = int(step.scored.sum())
    flops = step_flops(shape, arguments.batch, arguments.length, rows, rows, frozen=variant == "ours_lora")
    rate = matmul_rate(step.device, getattr(torch, arguments.dtype))
    if arguments.gradients is not None and variant == "published":
        torch.save((loss, {name: p.grad for name, p in step.student.named_parameters()}), arguments.gradients)
    elif arguments.gradients is not None and variant == "ours":
        record["agreement"] = agreement(step, loss, *torch.load(arguments.gradients, map_location=step.device))
    return record | {
        "weights": weights,
        "step_peak": peak - before,
        "total_peak": peak,
        "seconds": wall,
        "cpu_seconds": busy,
        "scored_positions": rows,
        "flops": flops,
        "matmul_flops_per_s": rate,
    }


def agreement(step: Step, loss: float, published: float, wanted: dict[str, torch.Tensor]) -> dict:
    """How the loss and the gradients that `step` holds differ from those of `published`, same weights and batch."""
    off = {name: (p.grad - wanted[name]).float() for name, p in step.student.named_parameters()}
    norm = torch.stack([g.float().norm() for g in wanted.values()]).norm()
    return {
        "loss_published": published,
        "loss_ours": loss,
        "gradient_largest_difference": max(g.abs().max().item() for g in off.values()),
        "gradient_largest_value": max(g.abs().max().item() for g in wanted.values()),
        "gradient_relative_difference": (torch.stack([g.norm() for g in off.values()]).norm() / norm).item(),
    }


def child(variant: str, gradients: Path | None) -> dict:
    """This very command in a process of its own, asked for one variant."""
    command = [sys.executable, *sys.argv, "--child", variant]
    command += [] if gradients is None else ["--gradients", str(gradients)]
    # Allocator settings that keep freed memory would hide what is needed.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment)
    require(done.returncode == 0, f"measuring {variant} ended with status {done.returncode} (-9 is out of memory)")
    return json.loads(done.stdout.splitlines()[-1])


def merge(rounds: list[dict]) -> dict:
    """Medians of time, maxima of memory and rate."""
    first = rounds[0]
    for name in ("seconds", "cpu_seconds"):
        first[name] = median(s for record in rounds for s in record[name])
    for name in ("loss_peak", "step_peak", "total_peak", "matmul_flops_per_s"):
        first[name] = max(record[name] for record in rounds)
    first["share_of_matmul_rate"] = first["flops"] / first["seconds"] / first["matmul_flops_per_s"]
    return first


def table(result: dict) -> str:
    """The results as Markdown, with ratios to the first variant."""
    lines = [
        "| variant | loss peak, GB | step peak above weights, GB | weights, GB | s per step | CPU s | share of matmul rate |",
        "|---|---|---|---|---|---|---|",
    ]
    base = next(iter(result["variants"].values()))
    for name, r in result["variants"].items():
        cells = [f"{r[key] / 1e9:.2f} ({r[key] / base[key]:.2f}x)" for key in ("loss_peak", "step_peak")]
        cells += [f"{r['weights'] / 1e9:.2f}"]
        cells += [f"{r[key]:.2f} ({r[key] / base[key]:.2f}x)" for key in ("seconds", "cpu_seconds")]
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {r['share_of_matmul_rate']:.0%} |")
    return "\n".join(lines)


def provenance(arguments: argparse.Namespace) -> dict:
    """What a reader needs to repeat the run."""
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    cuda = arguments.device.startswith("cuda")
    return {
        "command": " ".join(["python", *sys.argv]),
        "commit": git.stdout.strip(),
        "device": torch.cuda.get_device_name() if cuda else f"{platform.machine()} CPU",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def main():
    arguments = parse()
    shape, variants = shape_of(arguments), arguments.variants.split(",")
    for variant in variants:
        require(variant in VARIANTS, f"--variants: {variant!r} is unknown, use some of {', '.join(VARIANTS)}")
    require(min(arguments.batch, arguments.steps, arguments.rounds, arguments.chunk) >= 1, "counts must be at least 1")
    require(arguments.length >= 8, f"--length={arguments.length} must be at least 8")
    if arguments.child is not None:
        print(json.dumps(measure(arguments.child, shape, arguments)))
        return
    result = provenance(arguments) | {"shape": vars(shape), "batch": arguments.batch, "length": arguments.length}
    result |= {"dtype": arguments.dtype, "chunk": arguments.chunk}
    records = {variant: [] for variant in variants}
    both = not arguments.no_agreement and {"published", "ours"} <= set(variants)
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(arguments.rounds):
            for variant in sorted(variants, key=VARIANTS.index):
                print(f"round {turn + 1} of {arguments.rounds}: {variant} ...", file=sys.stderr, flush=True)
                records[variant].append(child(variant, Path(folder) / "gradients.pt" if both and not turn else None))
    if both:
        result["agreement"] = records["ours"][0].pop("agreement")
    result["variants"] = {variant: merge(rounds) for variant, rounds in records.items()}
    if arguments.output is not None:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    if "agreement" in result:
        print("\n".join(f"{name}: {value:.3g}" for name, value in result["agreement"].items()))
    print(table(result))


if __name__ == "__main__":
    exit_with_message(main)
