"""Wall-clock, apart from everything else: one process, all cells in turn on the same problems, so that a load on the
machine falls on each alike."""

import time
from statistics import median

import torch

from cd4lm.decoding import ConfidenceAdaptive, DecodeConfig, FixedSteps, decode
from cd4lm.decoding.policies import Policy
from evaluation.study.settings import Cell
from evaluation.study.subject import Subject


def one_by_one(subject: Subject, policy: Policy, config: DecodeConfig, problem: int) -> tuple[float, int, int]:
    """Seconds, tokens before EOS and forward passes of one problem at batch 1."""
    start = time.perf_counter()
    result = decode(subject.model, [subject.prompts[problem]], policy, config)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start, result.lengths.item(), result.nfe.item()


def measure_timing(subjects: dict[Cell, Subject], advance=lambda: None) -> dict[str, dict]:
    """Per cell: median latency at batch 1 and tokens/s of CAD at the headline threshold; the teacher also one by one.

    A block-causal student is timed with its exact block cache too. advance: called after each problem.
    """
    runs: dict[str, tuple[Subject, Policy, DecodeConfig]] = {}
    for cell, subject in subjects.items():
        study = subject.study
        cad = ConfidenceAdaptive(threshold=study.headline)
        runs[f"{cell.variant} CAD"] = (subject, cad, subject.decoding(cache="none"))
        if cell.seed is None:
            runs[f"{cell.variant} one token per step"] = (
                subject,
                FixedSteps(steps=study.gen_length),
                subject.decoding(cache="none"),
            )
        if subject.model.config.attention == "block_causal":
            runs[f"{cell.variant} CAD, block cache"] = (subject, cad, subject.decoding(cache="block"))
    found: dict[str, list[tuple[float, int, int]]] = {name: [] for name in runs}
    for run in runs.values():
        one_by_one(*run, 0)  # warm-up
    for problem in range(next(iter(subjects.values())).study.timed_problems):
        for name, run in runs.items():
            found[name].append(one_by_one(*run, problem))
        advance()
    return {name: summary(rows) for name, rows in found.items()}


def summary(rows: list[tuple[float, int, int]]) -> dict:
    seconds, tokens, nfe = (list(column) for column in zip(*rows, strict=True))
    return {
        "problems": {"seconds": seconds, "tokens": tokens, "nfe": nfe},
        "latency_median": median(seconds),
        "tokens_per_second": sum(tokens) / sum(seconds),
    }
