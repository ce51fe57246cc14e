"""Time every way to decode against the plain loop as published, side by side in one run.

    python scripts/benchmark_decoding.py --shape tiny                        # seconds, random weights
    python scripts/benchmark_decoding.py --shape bench --prompts 8 --batch 1 8
    python scripts/benchmark_decoding.py --shape 8b --dtype bfloat16 --modes plain exact exact+compile dual dual+compile
    python scripts/benchmark_decoding.py --model_path checkpoints/tiny_teacher --data data/tiny/test.jsonl \\
        --gen_length 40 --block_length 20 --modes exact prefix dual --refresh_interval 0 4 2
    python scripts/benchmark_decoding.py --shape bench --attention block_causal --prompt_length 200 --modes exact block
    python scripts/benchmark_decoding.py --shape tiny --prompt_length 32 128 512 --gen_length 64 256 --batch 1 4 16

The plain loop computes logits and probabilities of the full canvas, one prompt at a time, and decodes the tail after EOS.
Modes are interleaved within each repeat and ratios are taken within repeats, so that a busy machine slows all alike; on a
CPU the ratio of CPU seconds is printed too, which other work hardly changes. Without the plain loop among the modes, ratios
are to `exact` at the same batch size. Scored answers (--data) are compared with the same: difference in accuracy with its
paired bootstrap interval. With --dtype float32 bfloat16 the second is also compared with the first: the share of flipped
tokens and answers, and the difference in accuracy.
Writes NAME.json and NAME.png into --output_dir. With random weights the spread of the logits (--logit_std) gives tokens
of all confidences, and the EOS of each prompt is the token at which its answer has about --answer_length tokens.
"""

import argparse
import json
import os
import platform
import subprocess
from dataclasses import asdict
from pathlib import Path

import torch
from benchmarking import decoding_speed as speed
from benchmarking.decoding_grid import MODES, build_model, modes_of, points
from benchmarking.decoding_plot import plot
from benchmarking.decoding_record import flips, measure, quantile
from tqdm import tqdm

from cd4lm.config import exit_with_message, require
from cd4lm.decoding import ConfidenceAdaptive
from cd4lm.model.configuration import ATTENTIONS, BLOCK_GRIDS
from cd4lm.model.loading import best_device


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--shape", choices=speed.SHAPES, help="random weights of this shape")
    source.add_argument("--model_path", type=Path, help="checkpoint folder")
    parser.add_argument("--data", type=Path, help="JSONL with `question` (and an answer to score) for --model_path")
    for name in ("d_model", "n_heads", "n_layers", "vocab_size", "mlp_hidden_size"):
        parser.add_argument(f"--{name}", type=int, help="in place of the shape's")
    parser.add_argument(
        "--modes", nargs="+", choices=MODES, default=["plain", "exact", "exact+compile", "prefix", "dual"]
    )
    parser.add_argument("--attention", choices=ATTENTIONS, default="bidirectional", help="of random weights")
    parser.add_argument("--block_grid", choices=BLOCK_GRIDS, help="where blocks start, with --attention block_causal")
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 8], help="rows at a time; the plain loop has 1")
    parser.add_argument("--prompts", type=int, default=8, help="prompts decoded by every mode")
    parser.add_argument("--prompt_length", nargs="+", type=int, default=[100], help="of random prompts")
    parser.add_argument("--gen_length", nargs="+", type=int, default=[256])
    parser.add_argument("--block_length", type=int, default=32)
    parser.add_argument("--dtype", nargs="+", choices=speed.DTYPES, help="default: bfloat16 on a GPU, else float32")
    parser.add_argument("--threshold", type=float, default=0.9, help="of CAD")
    parser.add_argument(
        "--refresh_interval",
        nargs="+",
        type=int,
        default=[0],
        help="steps, of prefix and dual; 0: at block starts only",
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--answer_length", type=int, help="tokens before EOS with random weights, default half the canvas"
    )
    parser.add_argument("--logit_std", type=float, default=8.0, help="spread of random models' logits")
    parser.add_argument("--init_gain", type=float, default=1.7, help="std of a random weight times sqrt(d_model)")
    parser.add_argument("--length_bucket", type=int, default=64, help="columns are padded to a multiple when compiled")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/benchmarks"))
    parser.add_argument("--name", default="decoding", help="of the files written")
    return parser.parse_args()


def check(arguments: argparse.Namespace) -> None:
    """All that can be known to be wrong before a model is made."""
    counts = (
        "prompts",
        "repeats",
        "block_length",
        "answer_length",
        "d_model",
        "n_heads",
        "n_layers",
        "mlp_hidden_size",
    )
    for name in counts:
        value = vars(arguments)[name]
        require(value is None or value >= 1, f"--{name}={value} must be at least 1")
    for name in ("logit_std", "init_gain"):
        require(vars(arguments)[name] > 0, f"--{name}={vars(arguments)[name]} must be above 0")
    vocabulary = arguments.vocab_size
    require(
        vocabulary is None or vocabulary >= speed.LEAST_VOCABULARY,
        f"--vocab_size={vocabulary} must be at least {speed.LEAST_VOCABULARY}: special tokens take the last 383",
    )
    for name, values in (("batch", arguments.batch), ("prompt_length", arguments.prompt_length)):
        require(min(values) >= 1, f"--{name}={min(values)} must be at least 1")
    require(
        min(arguments.refresh_interval) >= 0,
        f"--refresh_interval={min(arguments.refresh_interval)} must not be negative",
    )
    for gen_length in arguments.gen_length:
        require(
            gen_length % arguments.block_length == 0,
            f"--gen_length={gen_length} is not a multiple of --block_length={arguments.block_length}",
        )
    require(arguments.data is None or arguments.model_path is not None, "--data needs --model_path, for its tokenizer")
    require(arguments.model_path is None or arguments.data is not None, "--model_path needs --data: JSONL of questions")
    require(arguments.data is None or arguments.data.is_file(), f"--data {arguments.data} does not exist")
    ConfidenceAdaptive(threshold=arguments.threshold)
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    require(os.access(arguments.output_dir, os.W_OK), f"--output_dir {arguments.output_dir} cannot be written to")


def machine(device: torch.device) -> dict:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "device": name,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0],
        "torch": torch.__version__,
        "commit": commit,
    }


def spread(values: list[float]) -> str:
    return f"{quantile(values, 0.5):.2f}x [{min(values):.2f}, {max(values):.2f}]"


def points_of(compared: dict) -> str:
    """Difference in accuracy with its paired interval, which would have no width where no verdict differs."""
    if compared["only_reference_right"] + compared["only_other_right"] == 0:
        return "no verdict differs"
    d = compared["accuracy_difference"]
    return f"{100 * d['value']:+.1f} [{100 * d['low']:+.1f}, {100 * d['high']:+.1f}] points"


def print_table(records: list[dict], on_cpu: bool) -> None:
    """One line per record, medians over the repeats."""
    head = ("dtype", "P", "G", "mode", "batch", "ms/NFE", "NFE", "tok/s", "p50 s", "p99 s", "MiB", "matmul", "memory")
    print(("{:>9}{:>6}{:>5} {:<14}{:>6}" + "{:>9}" * 8).format(*head), " same tok  speed-up [range]")
    for r in records:
        cells = (r["dtype"], r["prompt_length"], r["gen_length"], r["mode"], r["batch"])
        line = "{:>9}{:>6}{:>5} {:<14}{:>6}".format(*cells)
        line += f"{r['ms_per_nfe']:9.1f}{r['nfe']:9.1f}{r['tokens_per_second']:9.1f}"
        line += f"{r['latency']['p50']:9.2f}{r['latency']['p99']:9.2f}{(r['peak_memory'] or 0) / 2**20:9.0f}"
        line += "".join(f"{r[k]:9.0%}" if k in r else f"{'':9}" for k in ("share_matmul", "share_memory"))
        if "agreement" in r:
            line += f"{r['agreement']['tokens']:9.1%}   {spread(r['speedup'])}, per NFE {spread(r['speedup_per_nfe'])}"
            line += f", CPU time {spread(r['cpu_speedup'])}" if on_cpu else ""
        line += f", accuracy {r['accuracy']:.1%}" if "accuracy" in r else ""
        line += f" ({points_of(r['paired'])})" if "paired" in r else ""
        line += f", host {r['host_share']:.0%}" if r["host_share"] is not None else ""
        line += f", flips {r['flip_rate']:.2%}" if "flip_rate" in r else ""
        line += f" ({points_of(r['paired_float32'])})" if "paired_float32" in r else ""
        print(line + ("" if r["exact"] else "  (approximate)"))


def run(arguments: argparse.Namespace) -> dict:
    device, default = best_device()
    names = arguments.dtype or [next(name for name, dtype in speed.DTYPES.items() if dtype == default)]
    policy, modes = ConfidenceAdaptive(threshold=arguments.threshold), modes_of(arguments)
    measured, ceilings = [], {}
    for name in names:
        ceiling = speed.measure_ceiling(device, speed.DTYPES[name])
        ceilings[name] = asdict(ceiling)
        model = build_model(arguments, device, speed.DTYPES[name])
        grid = points(arguments, model, policy)
        total = len(grid) * len(modes) * arguments.repeats * arguments.prompts
        with tqdm(total=total, desc=name, unit="answer") as bar:
            for point in grid:
                for m in measure(model, point, modes, policy, arguments.repeats, device, bar):
                    r = m.record
                    r["dtype"] = name
                    if "flop_per_second" in r:
                        r["share_matmul"] = r["flop_per_second"] / ceiling.matmul
                        r["share_memory"] = r["weight_bytes_per_second"] / ceiling.bandwidth
                    measured.append(m)
    flips(measured)
    records = [m.record for m in measured]
    settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(arguments).items()}
    return {"machine": machine(device), "settings": settings, "ceiling": ceilings, "records": records}


def main():
    arguments = parse()
    check(arguments)
    report = run(arguments)
    stem = arguments.output_dir / arguments.name
    Path(f"{stem}.json").write_text(json.dumps(report, indent=1) + "\n")
    plot(report, Path(f"{stem}.png"))
    for name, ceiling in report["ceiling"].items():
        print(
            f"{name}: {ceiling['matmul'] / 1e9:.0f} GFLOP/s matrix product, {ceiling['bandwidth'] / 1e9:.1f} GB/s copy"
        )
    print_table(report["records"], on_cpu=best_device()[0].type == "cpu")
    print(f"wrote {stem}.json and {stem}.png")


if __name__ == "__main__":
    exit_with_message(main)
