"""Time every way to decode against the plain loop as published, side by side in one run.

    python scripts/benchmark_decoding.py --shape tiny                        # seconds, random weights
    python scripts/benchmark_decoding.py --shape 100m --prompts 8 --batch 1 8
    python scripts/benchmark_decoding.py --shape 8b --dtype bfloat16 --modes plain exact exact+compile dual dual+compile
    python scripts/benchmark_decoding.py --model_path checkpoints/tiny_teacher --data data/tiny/test.jsonl \\
        --gen_length 40 --block_length 20 --modes exact prefix dual --refresh_interval 0 4 2
    python scripts/benchmark_decoding.py --shape 100m --attention block_causal --prompt_length 200 --modes exact block block+packed
    python scripts/benchmark_decoding.py --shape 100m --steps 64 --modes plain exact exact+packed
    python scripts/benchmark_decoding.py --shape 100m --modes exact multi_block --block_add_threshold 0.2 --threshold 0.6
    python scripts/benchmark_decoding.py --shape tiny --prompt_length 32 128 512 --gen_length 64 256 --batch 1 4 16

The plain loop computes logits and probabilities of the full canvas, one prompt at a time, and decodes the tail after EOS.
Modes are interleaved within each repeat and ratios are taken within repeats, so that a busy machine slows all alike; on a
CPU the ratio of CPU seconds is printed too, which other work hardly changes. Without the plain loop among the modes, ratios
are to `exact` at the same batch size. Scored answers (--data) are compared with the same: difference in accuracy with its
paired bootstrap interval. With --dtype float32 bfloat16 the second is also compared with the first: the share of flipped
tokens and answers, and the difference in accuracy.
Prints a table and writes NAME.json into --output_dir. With random weights the spread of the logits gives tokens of all
confidences, and the EOS of each prompt is the token at which its answer has about --answer_length tokens.
"""

import argparse
from pathlib import Path
from statistics import median

from benchmarking import decoding_grid as grids
from benchmarking.decoding_record import flips, measure
from benchmarking.machine import about, markdown, matmul_ceiling, require_writable
from benchmarking.shapes import DIMENSIONS, DTYPES, SHAPES, add_dimension_options
from tqdm import tqdm

from cd4lm.config import CommandParser, exit_with_message, require
from cd4lm.decoding.checks import check_settings
from cd4lm.io import write_json
from cd4lm.model.configuration import ATTENTIONS
from cd4lm.model.loading import best_device

OF_RANDOM_MODELS = (*DIMENSIONS, "attention", "prompt_length", "answer_length")


def command_line() -> argparse.ArgumentParser:
    parser = CommandParser(__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--shape", choices=SHAPES, help="random weights of this shape")
    source.add_argument("--model_path", type=Path, help="checkpoint folder")
    parser.add_argument("--data", type=Path, help="JSONL with `question` and `answer`, the embedded task's")
    add_dimension_options(parser)
    default = ["plain", "exact", "exact+compile", "prefix", "dual"]
    parser.add_argument("--modes", nargs="+", choices=grids.MODES, default=default)
    parser.add_argument("--attention", choices=ATTENTIONS, default="bidirectional", help="of random weights")
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 8], help="rows at a time; the plain loop has 1")
    parser.add_argument("--prompts", type=int, default=8, help="prompts decoded by every mode")
    parser.add_argument("--prompt_length", nargs="+", type=int, default=[100], help="of random prompts")
    parser.add_argument("--gen_length", nargs="+", type=int, default=[256])
    parser.add_argument("--block_length", type=int, default=32)
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, help="default: bfloat16 on a GPU, else float32")
    parser.add_argument("--threshold", type=float, default=0.9, help="confidence from which tokens are committed")
    parser.add_argument("--steps", type=int, help="per answer, instead of a threshold: the decoder of LLaDA's paper")
    add = "multi_block: share of a block that opens the next (default 0.5)"
    parser.add_argument("--block_add_threshold", type=float, default=0.5, help=add)
    refresh = "steps between refreshes of prefix and dual; 0: at block starts only"
    parser.add_argument("--refresh_interval", nargs="+", type=int, default=[0], help=refresh)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--answer_length", type=int, help="tokens before EOS, default half the canvas")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/benchmarks"))
    parser.add_argument("--name", default="decoding", help="of the file written")
    return parser


def check(arguments: argparse.Namespace) -> tuple:
    """The model's configuration, the modes and the grid. Raises ValueError, before a model is made, for wrong options."""
    for name in ("prompts", "repeats", "batch", "prompt_length", "answer_length", "steps"):
        values = vars(arguments)[name]
        for value in values if isinstance(values, list) else [values]:
            require(value is None or value >= 1, f"--{name}={value} must be at least 1")
    if arguments.model_path is not None:
        require(arguments.data is not None, "--model_path needs --data: JSONL of questions")
        require(arguments.data.is_file(), f"--data {arguments.data} does not exist")
        for name in OF_RANDOM_MODELS:
            unused = vars(arguments)[name] == command_line().get_default(name)
            require(unused, f"--{name} is for random weights: leave it out with --model_path")
    require(arguments.shape is None or arguments.data is None, "--data needs --model_path, for its tokenizer")
    wide = best_device()[0].type == "cpu" and set(arguments.dtype or ["float32"]) == {"float32"}
    packed = any(mode.endswith("+packed") for mode in arguments.modes)
    require(wide or not packed, "modes with +packed are for float32 on a CPU: leave them or --dtype out")
    cached = any(mode.startswith(grids.APPROXIMATE) for mode in arguments.modes)
    require(cached or arguments.refresh_interval == [0], "--refresh_interval needs prefix or dual among --modes")
    config, modes = grids.model_config(arguments), grids.modes_of(arguments)
    grid = grids.points(arguments, config)
    for point in grid:
        for mode in modes:
            check_settings(config, mode.policy, mode.config(point.config))
    require_writable(arguments.output_dir)
    return config, modes, grid


def run(arguments: argparse.Namespace, config, modes: list[grids.Mode], grid: list[grids.Point]) -> dict:
    device, default = best_device()
    measured, ceilings = [], {}
    for name in arguments.dtype or [next(name for name, dtype in DTYPES.items() if dtype == default)]:
        model = grids.build_model(arguments, config, device, DTYPES[name])
        columns = max(point.columns for point in grid) * max(arguments.batch)
        ceilings[name] = matmul_ceiling(model, {arguments.block_length, columns})
        answers = len(grid) * len(modes) * arguments.repeats * arguments.prompts
        with tqdm(total=answers, desc=name, unit="answer") as bar:
            for point in grid:
                if arguments.shape is not None:
                    point = grids.plant_eos(model, point, arguments.threshold, arguments.answer_length)
                found = measure(model, point, modes, arguments.repeats, ceilings[name], bar)
                for each in found:
                    each.record["dtype"] = name
                measured += found
    flips(measured)
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(arguments).items()}
    return about() | {"settings": settings, "matmul_ceiling": ceilings, "records": [m.record for m in measured]}


def spread(values: list[float]) -> str:
    return f"{median(values):.2f} [{min(values):.2f}, {max(values):.2f}]"


def difference(compared: dict) -> str:
    """Difference in accuracy with its paired interval, which would have no width where no verdict differs."""
    if compared["only_reference_right"] + compared["only_other_right"] == 0:
        return "no verdict differs"
    d = compared["accuracy_difference"]
    return f"{100 * d['value']:+.1f} [{100 * d['low']:+.1f}, {100 * d['high']:+.1f}] points"


def cells(r: dict) -> dict[str, str]:
    """A line of the table by column, medians over the repeats with their range."""
    found = {"dtype": r["dtype"], "prompt + canvas": f"{r['prompt_length']} + {r['gen_length']}"}
    found |= {"mode": r["mode"] + ("" if r["exact"] else " (approximate)"), "batch": str(r["batch"])}
    found |= {"ms/NFE": f"{r['ms_per_nfe']:.1f}", "NFE": f"{r['nfe']:.1f}", "tok/s": f"{r['tokens_per_second']:.1f}"}
    found |= {f"{name} s": f"{value:.2f}" for name, value in r["latency"].items()}
    if r["peak_memory"] is not None:
        found["peak GB"] = f"{r['peak_memory'] / 1e9:.2f}"
    if "columns_read" in r:
        found["columns"] = f"{r['columns_read']:.1f}"
    for name in ("share_matmul", "host_share", "accuracy", "flip_rate"):
        if r.get(name) is not None:
            found[name.replace("_", " ")] = f"{r[name]:.1%}"
    if "agreement" in r:
        found["same tokens"] = f"{r['agreement']['tokens']:.1%}"
        found |= {name.replace("_", " "): spread(r[name]) for name in ("speedup", "speedup_per_nfe", "cpu_speedup")}
    found |= {name.replace("_", " "): difference(r[name]) for name in ("paired", "paired_float32") if name in r}
    return found


def main():
    arguments = command_line().parse_args()
    report = run(arguments, *check(arguments))
    file = arguments.output_dir / f"{arguments.name}.json"
    write_json(file, report, indent=1)
    for name, rate in report["matmul_ceiling"].items():
        print(f"{name}: {rate / 1e9:.0f} GFLOP/s matrix product")
    print(f"{markdown([cells(r) for r in report['records']])}\nwrote {file}")


if __name__ == "__main__":
    exit_with_message(main)
