"""Tokens per second and latency of a served student, beside this repository's engine on the same questions.

    vllm serve outputs/x/student                            # in the environment that has vLLM, see docs/serving.md
    python scripts/benchmark_serving.py --model_path outputs/x/student --data data/gsm8k/test.jsonl
    python scripts/benchmark_serving.py --model_path outputs/x/student --data data/gsm8k/test.jsonl --sides server --concurrency 1 8 64 256

Runs in the server's environment: vLLM's own `bench serve` asks the server, so many requests at a time; then the engine
decodes the same questions in batches of that size with the checkpoint's generation settings, which are the server's. Both
count the tokens before EOS. On one GPU measure the sides one after the other (--sides), so that neither holds the other's
memory. Prints a table and writes serving.json into --output_dir.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import torch
from benchmarking.machine import about, markdown, require_writable

from cd4lm.config import CommandParser, exit_with_message, require
from cd4lm.data.examples import encode_prompt
from cd4lm.data.rows import read_rows
from cd4lm.decoding import DecodingOptions, generate
from cd4lm.io import write_json
from cd4lm.model.loading import load_network, tokenizer_for_inference

# As the `vllm` command would; that of builds for a CPU does not start.
BENCH = """
import argparse
from vllm.benchmarks import serve
parser = argparse.ArgumentParser()
serve.add_cli_args(parser)
serve.main(parser.parse_args())
"""
SIDES = ("server", "engine")


def command_line() -> argparse.ArgumentParser:
    parser = CommandParser(__doc__)
    parser.add_argument(
        "--model_path", type=Path, required=True, help="checkpoint folder, as it was given to the server"
    )
    parser.add_argument("--data", type=Path, required=True, help="JSONL with `question`")
    parser.add_argument("--base_url", default="http://127.0.0.1:8000", help="of the server (default %(default)s)")
    parser.add_argument("--served_name", help="the model's name there, default the folder's path")
    parser.add_argument(
        "--concurrency", type=int, nargs="+", default=[1, 8, 64], help="requests at a time (default 1 8 64)"
    )
    parser.add_argument("--prompts", type=int, default=128, help="questions for each (default 128)")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="of the engine; default as the device has it")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/benchmarks"))
    return parser


def questions_of(arguments: argparse.Namespace) -> list[str]:
    require(arguments.data.is_file(), f"--data {arguments.data} does not exist")
    rows = [row for _, row in zip(range(arguments.prompts), read_rows(arguments.data), strict=False)]
    require(bool(rows) and "question" in rows[0], f"--data {arguments.data} has no column `question`")
    return [row["question"] for row in rows]


def record(side: str, concurrency: int, lengths: Sequence[int], seconds: float, latencies: Sequence[float]) -> dict:
    ordered = sorted(latencies)
    return {
        "side": side,
        "concurrency": concurrency,
        "answers": len(lengths),
        "tokens": sum(lengths),
        "tokens_per_second": sum(lengths) / seconds,
        "latency_median": median(ordered),
        "latency_99": ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))],
    }


def ask_server(arguments: argparse.Namespace, questions: list[str], tokenizer, length: int, concurrency: int) -> dict:
    """One run of vLLM's benchmark, answers of at most `length` tokens. Raises ValueError if it fails or a request did."""
    name = arguments.served_name or str(arguments.model_path)
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "questions.jsonl"
        rows.write_text("".join(json.dumps({"prompt": question}) + "\n" for question in questions))
        words = ["--backend", "openai-chat", "--endpoint", "/v1/chat/completions", "--base-url", arguments.base_url]
        words += ["--model", name, "--tokenizer", str(arguments.model_path), "--dataset-name", "custom"]
        words += ["--dataset-path", str(rows), "--num-prompts", str(len(questions)), "--disable-shuffle"]
        words += ["--skip-chat-template", "--custom-output-len", str(length), "--max-concurrency", str(concurrency)]
        words += ["--save-result", "--save-detailed", "--result-dir", folder, "--result-filename", "result.json"]
        done = subprocess.run([sys.executable, "-c", BENCH, *words], capture_output=True, text=True)
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        require(done.returncode == 0, f"vLLM's benchmark of {arguments.base_url} failed: {reason}")
        result = json.loads((Path(folder) / "result.json").read_text())
    failed = [error for error in result["errors"] if error]
    require(not failed, f"{len(failed)} of {len(questions)} requests failed, the first: {(failed or [''])[0][:300]}")
    lengths = [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in result["generated_texts"]]
    latencies = [first + sum(rest) for first, rest in zip(result["ttfts"], result["itls"], strict=True)]
    return record("server", concurrency, lengths, result["duration"], latencies)


def ask_engine(model, tokenizer, decoder, questions: list[str], concurrency: int) -> dict:
    prompts = [torch.tensor(encode_prompt(tokenizer, question)) for question in questions]
    found = list(generate(model, tokenizer, prompts, decoder, batch_size=concurrency))
    lengths, latencies = [len(g.tokens) for g in found], [g.seconds for g in found]
    return record("engine", concurrency, lengths, found[-1].clock, latencies)


def run(arguments: argparse.Namespace) -> list[dict]:
    questions, folder = questions_of(arguments), arguments.model_path
    decoder, tokenizer = DecodingOptions().for_checkpoint(folder), tokenizer_for_inference(folder)
    records = []
    if "server" in arguments.sides:
        records += [
            ask_server(arguments, questions, tokenizer, decoder.config.gen_length, size)
            for size in arguments.concurrency
        ]
    if "engine" in arguments.sides:
        model = load_network(folder, None if arguments.dtype is None else getattr(torch, arguments.dtype))
        records += [ask_engine(model, tokenizer, decoder, questions, size) for size in arguments.concurrency]
    return records


def line(one: dict) -> dict[str, str]:
    """A record as a row of the table."""
    return {
        "side": one["side"],
        "at a time": str(one["concurrency"]),
        "answers": str(one["answers"]),
        "tokens before EOS": str(one["tokens"]),
        "tokens/s": f"{one['tokens_per_second']:.1f}",
        "median latency, s": f"{one['latency_median']:.2f}",
        "99 %, s": f"{one['latency_99']:.2f}",
    }


def main():
    arguments = command_line().parse_args()
    for size in (*arguments.concurrency, arguments.prompts):
        require(size >= 1, "--concurrency and --prompts must be at least 1")
    require_writable(arguments.output_dir)
    records = run(arguments)
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(arguments).items()}
    write_json(arguments.output_dir / "serving.json", about() | {"settings": settings, "records": records})
    print(markdown([line(one) for one in records]))
    print(f"wrote {arguments.output_dir / 'serving.json'}")


if __name__ == "__main__":
    exit_with_message(main)
