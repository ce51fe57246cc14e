"""Time every way to decode against the plain loop as published, side by side in one run.

    python scripts/benchmark_decoding.py --shape tiny                        # seconds, random weights
    python scripts/benchmark_decoding.py --shape bench --prompts 8 --batch 1 8
    python scripts/benchmark_decoding.py --shape 8b --dtype bfloat16 --modes plain exact exact+compile dual dual+compile
    python scripts/benchmark_decoding.py --model_path checkpoints/tiny_teacher --data data/tiny/validation.jsonl
    python scripts/benchmark_decoding.py --shape bench --attention block_causal --prompt_length 200 --modes exact block
    python scripts/benchmark_decoding.py --shape tiny --prompt_length 32 128 512 --gen_length 64 256 --batch 1 4 16

The plain loop computes logits and probabilities of the full canvas, one prompt at a time, and decodes the tail after EOS.
Modes are interleaved within each repeat and ratios are taken within repeats, so that a busy machine slows all alike;
without the plain loop among the modes they are ratios to `exact` at the same batch size.
Writes NAME.json and NAME.png into --output_dir. With random weights the spread of the logits (--logit_std) gives tokens
of all confidences, and the EOS of each prompt is the token at which its answer has about --answer_length tokens.
"""

import argparse
import json
import os
import platform
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from evaluation.metrics import tiny
from scripts import decoding_speed as speed
from scripts.decoding_plot import plot
from src.config import exit_with_message, require
from src.data.examples import encode_prompt, end_ids
from src.data.rows import read_jsonl
from src.decoding import ConfidenceAdaptive, DecodeConfig, decode
from src.model.configuration import ATTENTIONS, BLOCK_GRIDS
from src.model.loading import best_device, load_model, load_tokenizer

CACHES = {"plain": "plain", "exact": "none", "prefix": "prefix", "dual": "dual", "block": "block"}
MODES = ["plain", *(name + end for name in ("exact", "prefix", "dual", "block") for end in ("", "+compile"))]


@dataclass(frozen=True)
class Point:
    """One grid point: prompts, settings, and what scores an answer (row index, tokens) or None."""

    prompts: list[torch.Tensor]
    config: DecodeConfig
    score: object
    labels: dict


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
    parser.add_argument("--refresh_interval", type=int, help="of prefix and dual, default: at block starts only")
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
    positive = {name: getattr(arguments, name) for name in ("prompts", "repeats")}
    for name, value in positive.items():
        require(value >= 1, f"--{name}={value} must be at least 1")
    for name, values in (("batch", arguments.batch), ("prompt_length", arguments.prompt_length)):
        require(min(values) >= 1, f"--{name}={min(values)} must be at least 1")
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


def build_model(arguments: argparse.Namespace, device: torch.device, dtype: torch.dtype):
    if arguments.model_path is not None:
        return load_model(arguments.model_path, dtype=dtype).to(device).eval()
    given = {
        name: getattr(arguments, name) for name in ("d_model", "n_heads", "n_layers", "vocab_size", "mlp_hidden_size")
    }
    shape = speed.SHAPES[arguments.shape] | {name: value for name, value in given.items() if value is not None}
    model = speed.random_model(shape, device, dtype, arguments.init_gain, arguments.logit_std)
    if arguments.attention == "block_causal":
        model.config.set_attention("block_causal", arguments.block_length, arguments.block_grid)
    return model


def base_config(arguments: argparse.Namespace, model, gen_length: int, eos_ids=()) -> DecodeConfig:
    """Settings of all modes; a refresh interval means nothing to some and is taken from these again."""
    return DecodeConfig(
        mask_id=model.config.mask_token_id,
        eos_ids=tuple(eos_ids),
        gen_length=gen_length,
        block_length=arguments.block_length,
        cache="dual",
        refresh_interval=arguments.refresh_interval,
        length_bucket=arguments.length_bucket,
    )


def planted_eos(model, prompts, policy, config: DecodeConfig, length: int) -> set[int]:
    """For each prompt the token whose first place in its exact answer is nearest to `length`."""
    exact = speed.replace(speed.config_of(speed.Mode("", "none", False, 1), config), stop_at_eos=False)
    chosen = set()
    for row in decode(model, prompts, policy, exact).tokens.tolist():
        first = {token: place for place, token in reversed(list(enumerate(row)))}
        chosen.add(min(first, key=lambda token: abs(first[token] - length)))
    return chosen


def points(arguments: argparse.Namespace, model, policy) -> list[Point]:
    """The grid: the questions of --data, or random prompts of each length, with each canvas."""
    found = []
    if arguments.data is not None:
        tokenizer = load_tokenizer(arguments.model_path)
        rows = read_jsonl(arguments.data)[: arguments.prompts]
        prompts = [torch.tensor(encode_prompt(tokenizer, row["question"])) for row in rows]
        for gen_length in arguments.gen_length:
            config = base_config(arguments, model, gen_length, end_ids(tokenizer))
            score = lambda i, tokens: tiny.score(rows[i], tokenizer.decode(tokens))  # noqa: E731
            found.append(Point(prompts, config, score, {"prompt_length": "data", "gen_length": gen_length}))
        return found
    for prompt_length in arguments.prompt_length:
        generator = torch.Generator().manual_seed(prompt_length)
        ids = torch.randint(
            0, model.config.mask_token_id - 256, (arguments.prompts, prompt_length), generator=generator
        )
        for gen_length in arguments.gen_length:
            length = arguments.answer_length or gen_length // 2
            eos_ids = planted_eos(model, list(ids), policy, base_config(arguments, model, gen_length), length)
            config = base_config(arguments, model, gen_length, sorted(eos_ids))
            found.append(Point(list(ids), config, None, {"prompt_length": prompt_length, "gen_length": gen_length}))
    return found


def modes_of(arguments: argparse.Namespace) -> list[speed.Mode]:
    """Every mode at every batch size, the plain loop at 1 only."""
    found = []
    for name in arguments.modes:
        for batch in sorted(set(arguments.batch)) if name != "plain" else [1]:
            kind, _, compiled = name.partition("+")
            found.append(speed.Mode(name, CACHES[kind], bool(compiled), batch))
    return found


def warm_up(model, point: Point, mode: speed.Mode, policy, device) -> None:
    """Every shape once where shapes are compiled or kernels loaded; elsewhere one block."""
    config = speed.config_of(mode, point.config)
    if not mode.compile and device.type == "cpu":
        config = speed.replace(config, gen_length=config.block_length)
    speed.run_once(model, point.prompts[: mode.batch], policy, config, mode.batch, lambda n: None)
    if mode.compile:
        speed.run_once(model, point.prompts, policy, config, mode.batch, lambda n: None)


def measure(model, point: Point, modes, policy, repeats: int, device, bar) -> list[dict]:
    """All modes on one grid point, interleaved; one record per mode."""
    runs: dict[speed.Mode, list[speed.Run]] = {mode: [] for mode in modes}
    counts, peaks = {}, {}
    for mode in modes:
        bar.set_postfix_str(f"{mode.name} batch {mode.batch}: warm-up")
        warm_up(model, point, mode, policy, device)
    for repeat in range(repeats):
        for mode in modes:
            bar.set_postfix_str(f"{mode.name} batch {mode.batch}: repeat {repeat + 1}")
            arguments = (model, point.prompts, policy, speed.config_of(mode, point.config), mode.batch, bar.update)
            speed.reset_peak_memory(device)
            if mode.compile:  # a hook would be compiled too
                runs[mode].append(speed.run_once(*arguments))
            else:
                with speed.ForwardCounter(model) as counts[mode]:
                    runs[mode].append(speed.run_once(*arguments))
            peaks[mode] = max(peaks.get(mode, 0), speed.peak_memory(device) or 0) or None
    for mode in modes:  # a compiled mode does the arithmetic of its eager twin
        twin = next((m for m in modes if (m.cache, m.batch, m.compile) == (mode.cache, mode.batch, False)), None)
        counts[mode] = counts.get(twin)
    return [record(model, point, mode, runs, counts[mode], peaks[mode], policy) for mode in modes]


def quantile(values: list[float], share: float) -> float:
    return torch.tensor(values, dtype=torch.float64).quantile(share).item()


def record(model, point: Point, mode, runs, counter, peak, policy) -> dict:
    """What one mode's runs amount to."""
    mine, result = runs[mode], runs[mode][0].result
    seconds = [run.seconds for run in mine]
    middle = quantile(seconds, 0.5)
    plain = next((runs[other] for other in runs if other.cache == "plain"), None)
    plain = plain or runs.get(speed.Mode("exact", "none", False, mode.batch))
    found = {"mode": mode.name, "batch": mode.batch, "exact": mode.cache in ("none", "plain", "block"), **point.labels}
    nfe, tokens = result.nfe.sum().item(), result.lengths.sum().item()
    found |= {"seconds": seconds, "nfe": nfe / len(point.prompts), "tokens_before_eos": tokens / len(point.prompts)}
    found |= {"ms_per_nfe": 1000 * middle / nfe, "tokens_per_second": tokens / middle, "peak_memory": peak}
    latencies = [latency for run in mine for latency in run.latencies]
    found["latency"] = {f"p{int(100 * q)}": quantile(latencies, q) for q in (0.5, 0.9, 0.99)}
    if counter is not None:
        found |= {"forwards": counter.forwards, "flop_per_second": counter.flops / middle}
        found["weight_bytes_per_second"] = counter.forwards * body_bytes(model) / middle
    busy = speed.device_seconds(model, point.prompts, policy, speed.config_of(mode, point.config), mode.batch)
    found["host_share"] = None if busy is None else max(0.0, 1 - busy / middle)
    if plain is not None:
        found["agreement"] = speed.agreement(result, plain[0].result)
        found["speedup"] = [a.seconds / b.seconds for a, b in zip(plain, mine, strict=True)]
        of_plain = [run.seconds / run.result.nfe.sum().item() for run in plain]
        found["speedup_per_nfe"] = [a / (b.seconds / nfe) for a, b in zip(of_plain, mine, strict=True)]
    if point.score is not None:
        rows = enumerate(zip(result.tokens, result.lengths.tolist(), strict=True))
        found["accuracy"] = sum(point.score(i, row[:n]) for i, (row, n) in rows) / len(point.prompts)
    found["_result"] = result
    return found


def body_bytes(model) -> int:
    """Bytes of the weights that every forward reads: all but the embedding table."""
    return sum(p.nbytes for p in model.parameters()) - model.get_input_embeddings().weight.nbytes


def flips(records: list[dict]) -> None:
    """Beside each reduced-precision record: the share of tokens that differ from the same mode in float32."""
    key = ("mode", "batch", "prompt_length", "gen_length")
    exact = {tuple(r[k] for k in key): r["_result"] for r in records if r["dtype"] == "float32"}
    for r in records:
        wide = exact.get(tuple(r[k] for k in key))
        if r["dtype"] != "float32" and wide is not None:
            r["flip_rate"] = 1 - speed.agreement(r["_result"], wide)["tokens"]


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


def print_table(records: list[dict]) -> None:
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
        line += f", accuracy {r['accuracy']:.1%}" if "accuracy" in r else ""
        line += f", host {r['host_share']:.0%}" if r["host_share"] is not None else ""
        line += f", flips {r['flip_rate']:.2%}" if "flip_rate" in r else ""
        print(line + ("" if r["exact"] else "  (approximate)"))


def run(arguments: argparse.Namespace) -> dict:
    device, default = best_device()
    names = arguments.dtype or [next(name for name, dtype in speed.DTYPES.items() if dtype == default)]
    policy, modes = ConfidenceAdaptive(threshold=arguments.threshold), modes_of(arguments)
    records, ceilings = [], {}
    for name in names:
        ceiling = speed.measure_ceiling(device, speed.DTYPES[name])
        ceilings[name] = asdict(ceiling)
        model = build_model(arguments, device, speed.DTYPES[name])
        grid = points(arguments, model, policy)
        total = len(grid) * len(modes) * arguments.repeats * arguments.prompts
        with tqdm(total=total, desc=name, unit="answer") as bar:
            for point in grid:
                for r in measure(model, point, modes, policy, arguments.repeats, device, bar):
                    r["dtype"] = name
                    if "flop_per_second" in r:
                        r["share_matmul"] = r["flop_per_second"] / ceiling.matmul
                        r["share_memory"] = r["weight_bytes_per_second"] / ceiling.bandwidth
                    records.append(r)
    flips(records)
    for r in records:
        del r["_result"]
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
    print_table(report["records"])
    print(f"wrote {stem}.json and {stem}.png")


if __name__ == "__main__":
    exit_with_message(main)
