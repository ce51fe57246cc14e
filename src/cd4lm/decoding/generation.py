"""Answers to prompts, one after another as they finish: the only loop around decode_stream."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch

from cd4lm.decoding.engine import decode_stream
from cd4lm.decoding.options import Decoder
from cd4lm.decoding.result import DecodeResult


@dataclass(frozen=True)
class Generation:
    """One answer. index: place of its prompt; tokens: before the first EOS, (length,), and their text.

    seconds: from entering the batch to leaving it. clock: seconds decoded so far. truncated: no EOS within the canvas.
    result: all that the engine tells of this row (B = 1).
    """

    index: int
    text: str
    tokens: torch.Tensor
    nfe: int
    seconds: float
    clock: float
    truncated: bool
    result: DecodeResult


class Stopwatch:
    """Seconds spent decoding: it stands still while a caller works on a finished answer."""

    def __init__(self):
        self.elapsed, self.since = 0.0, time.perf_counter()

    def now(self) -> float:
        return self.elapsed + time.perf_counter() - self.since

    def pause(self) -> float:
        self.elapsed = self.now()
        return self.elapsed

    def resume(self) -> None:
        self.since = time.perf_counter()


def generate(
    model,
    tokenizer,
    prompts: Iterable[torch.Tensor],
    decoder: Decoder,
    *,
    batch_size: int,
    row_ids: Iterable[int] | None = None,
    on_step: Callable | None = None,
) -> Iterator[Generation]:
    """Decode prompts (1-D LongTensors), at most batch_size at a time; answers come as they finish, whatever their order.

    row_ids, on_step and errors: as decode_stream. Batching changes no answer in float32.
    """
    watch, entered = Stopwatch(), []

    def arriving() -> Iterator[torch.Tensor]:
        for prompt in prompts:
            entered.append(watch.now())
            yield prompt

    how = {"batch_size": batch_size, "row_ids": row_ids, "on_step": on_step}
    for part in decode_stream(model, arriving(), decoder.policy, decoder.config, **how):
        now = watch.pause()
        for row, index in enumerate(part.index.tolist()):
            length = part.lengths[row].item()
            tokens = part.tokens[row, :length]
            yield Generation(
                index=index,
                text=tokenizer.decode(tokens),
                tokens=tokens,
                nfe=part.nfe[row].item(),
                seconds=now - entered[index],
                clock=now,
                truncated=length == decoder.config.gen_length,
                result=part.row(row),
            )
        watch.resume()
