"""Decode and score problems with one model and one policy: the loop under every table of accuracy and NFE."""

import difflib
import hashlib
import importlib
import pkgutil
import time
from collections.abc import Callable

import torch
from tqdm import tqdm

from evaluation import metrics
from evaluation.metrics.statistics import wilson
from src.data.examples import encode_prompt
from src.decoding import DecodeConfig, decode, decode_stream
from src.decoding.policies import Policy


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
    """The `score(doc, response)` of the metric evaluation/metrics/<name>.py, or ValueError that names those there are."""
    modules = {m.name: f"{metrics.__name__}.{m.name}" for m in pkgutil.iter_modules(metrics.__path__)}
    if name in modules and "score" in (found := vars(importlib.import_module(modules[name]))):
        return found["score"]
    known = [known for known, module in modules.items() if "score" in vars(importlib.import_module(module))]
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]}?" if close else f"use one of {', '.join(known)}"
    raise ValueError(f"metric {name!r} is unknown: {hint}")
