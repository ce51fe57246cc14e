"""Decoding a list of requests through the engine, with the time each one took."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch

from cd4lm.config import require
from cd4lm.decoding import DecodeResult, FixedSteps, decode_stream
from evaluation.dllm_eval.answers import Key
from evaluation.dllm_eval.options import Decoder


@dataclass(frozen=True)
class Job:
    """One text to generate: its key and hash in the answer log, the lm-eval request, prompt ids, decoder, end strings."""

    key: Key
    request: str
    instance: object
    prompt: list[int]
    decoder: Decoder
    until: tuple[str, ...]

    @property
    def row_id(self) -> int:
        """What sampling draws from: the document and the repeat, whatever else is in the batch."""
        _, doc_id, index, repeat = self.key
        return (doc_id << 32) + (index << 16) + repeat


class Stopwatch:
    """Seconds spent decoding: it stands still while a finished answer is scored and written."""

    def __init__(self):
        self.elapsed, self.since = 0.0, time.perf_counter()

    def pause(self) -> float:
        self.elapsed += time.perf_counter() - self.since
        return self.elapsed

    def resume(self) -> None:
        self.since = time.perf_counter()

    def now(self) -> float:
        return self.elapsed + time.perf_counter() - self.since


def check_length(jobs: Sequence[Job], room: int) -> None:
    """Raise ValueError naming the first document whose prompt and canvas the model cannot take, before any is decoded."""
    for job in jobs:
        task, doc_id, *_ = job.key
        length = job.decoder.config.gen_length
        require(
            len(job.prompt) + length <= room,
            f"{task} document {doc_id}: {len(job.prompt)} prompt tokens and gen_length={length} exceed the model's {room}: "
            "use a smaller gen_length or fewer shots",
        )


def finished(
    model, jobs: Sequence[Job], decoder: Decoder, batch_size: int
) -> Iterator[tuple[Job, DecodeResult, int, float, float]]:
    """Decode jobs that share a decoder; yields each as it finishes: job, result, its row there, seconds, clock.

    Shorter prompts go first: a batch is as wide as its longest prompt.
    """
    jobs = sorted(jobs, key=lambda job: len(job.prompt))
    row_ids = [job.row_id for job in jobs]
    if next(model.parameters()).device.type == "cuda":  # the first forwards load and choose kernels
        warm = [torch.tensor(job.prompt) for job in jobs[:batch_size]]
        once = FixedSteps(steps=decoder.config.blocks)
        for _ in decode_stream(model, warm, once, decoder.config, batch_size=batch_size):
            pass
    watch, entered = Stopwatch(), []

    def arriving() -> Iterator[torch.Tensor]:
        for job in jobs:
            entered.append(watch.now())
            yield torch.tensor(job.prompt)

    parts = decode_stream(model, arriving(), decoder.policy, decoder.config, batch_size=batch_size, row_ids=row_ids)
    for part in parts:
        now = watch.pause()
        for row, i in enumerate(part.index.tolist()):
            yield jobs[i], part, row, now - entered[i], now
        watch.resume()


def group_by(items: Sequence, key) -> Iterator[tuple[object, list]]:
    """Items with equal keys together, in the order in which the keys first appear."""
    order: dict = {}
    for item in items:
        order.setdefault(key(item), len(order))
    for value, group in groupby(sorted(items, key=lambda item: order[key(item)]), key=key):
        yield value, list(group)
