"""Decode and score problems with one model and one policy: the loop under every table of accuracy and NFE."""

import difflib
import hashlib
import importlib
import time
from collections.abc import Callable

import torch
from tqdm import tqdm

from cd4lm.data.examples import encode_prompt
from cd4lm.decoding import DecodeConfig, decode, decode_stream
from cd4lm.decoding.policies import Policy
from evaluation.statistics import wilson

# Modules with score(doc, response), by the name that command lines take.
METRICS = {name: f"evaluation.metrics.{name}" for name in ("gsm8k", "math500", "humaneval", "mbpp")}
METRICS["tiny"] = "cd4lm.data.tiny_task"


def measure(
    model,
    tokenizer,
    rows: list[dict],
    policy: Policy,
    config: DecodeConfig,
    *,
    batch_size: int,
    score: Callable[[dict, str], bool],
    label: str,
) -> dict:
    """Decode and score all rows: problems = {right (0/1), nfe, length before EOS} in their order, seconds, and a digest of
    all tokens, by which two runs can be told to be the same."""
    prompts = [torch.tensor(encode_prompt(tokenizer, row["question"])) for row in rows]
    right, nfe, length = [0] * len(rows), [0] * len(rows), [0] * len(rows)
    answers = [b""] * len(rows)
    start = time.perf_counter()
    with tqdm(total=len(rows), desc=label, unit="problem", leave=False) as bar:
        for part in decode_stream(model, prompts, policy, config, batch_size=batch_size):
            for j, i in enumerate(part.index.tolist()):
                length[i], nfe[i] = part.lengths[j].item(), part.nfe[j].item()
                answers[i] = part.tokens[j].numpy().tobytes()
                right[i] = int(score(rows[i], tokenizer.decode(part.tokens[j, : length[i]])))
            bar.update(len(part.index))
    problems = {"right": right, "nfe": nfe, "length": length}
    seconds = time.perf_counter() - start
    return {"problems": problems, "seconds": seconds, "tokens": hashlib.sha256(b"".join(answers)).hexdigest()}


def latency(model, tokenizer, rows: list[dict], policy: Policy, config: DecodeConfig) -> list[float]:
    """Seconds to answer each row by itself, after one answer that only warms up."""
    prompts = [torch.tensor(encode_prompt(tokenizer, row["question"])) for row in rows]
    seconds = []
    for prompt in [*prompts[:1], *prompts]:
        start = time.perf_counter()
        decode(model, [prompt], policy, config)
        seconds.append(time.perf_counter() - start)
    return seconds[1:]


def summarise(cell: dict) -> dict:
    """Means over the problems of what `measure` returns, the accuracy with its Wilson interval."""
    right, nfe, length = (sum(cell["problems"][name]) for name in ("right", "nfe", "length"))
    n = len(cell["problems"]["right"])
    return {
        "accuracy": right / n,
        "accuracy_95": wilson(right, n),
        "nfe": nfe / n,
        "tokens_before_eos": length / n,
        "tokens_per_forward": length / nfe,
        "tokens_per_second": length / cell["seconds"],
    }


def scorer(name: str) -> Callable[[dict, str], bool]:
    """The `score(doc, response)` of a metric, or ValueError that names those there are."""
    if name in METRICS:
        return importlib.import_module(METRICS[name]).score
    close = difflib.get_close_matches(name, METRICS, n=1)
    hint = f"did you mean {close[0]}?" if close else f"use one of {', '.join(METRICS)}"
    raise ValueError(f"metric {name!r} is unknown: {hint}")
