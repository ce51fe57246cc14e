"""One pass of one mode over the prompts of a grid point, and how its answers agree with those of another."""

import time
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch

from benchmarking.decoding_grid import Mode, Point
from benchmarking.machine import PeakMemory, cached_flops
from cd4lm.decoding import DecodeResult, decode_stream
from cd4lm.model.packing import packed_head
from cd4lm.training.throughput import wait


class ForwardCounter:
    """Context manager that counts forward passes, positions whose logits they give, and operations, by a hook."""

    def __init__(self, model):
        self.model, self.forwards, self.read, self.flops = model, 0, 0, 0.0

    def __enter__(self) -> "ForwardCounter":
        self.handle = self.model.register_forward_pre_hook(self.count, with_kwargs=True)
        return self

    def __exit__(self, *_) -> None:
        self.handle.remove()

    def count(self, module, args, kwargs) -> None:
        rows, columns = kwargs["input_ids"].shape
        at, cache = kwargs.get("logits_at"), kwargs.get("cache")
        keys = columns if cache is None else cache.keys.shape[3] - 1
        read = columns if at is None else at.shape[1]
        self.forwards += 1
        self.read += read
        self.flops += cached_flops(self.model.config, rows, columns, keys, read, at is not None)


@dataclass(frozen=True)
class Pass:
    """Answers in the order of the prompts, seconds of all, and of each from its joining to its end.

    cpu_seconds: of this process, which other work on the machine hardly changes. peak_memory: bytes, None if unknown.
    counted: forward passes and operations, None for compiled steps, whose hooks would be compiled too.
    """

    result: DecodeResult
    seconds: float
    cpu_seconds: float
    latencies: list[float]
    peak_memory: int | None
    counted: ForwardCounter | None


def run_once(model, point: Point, mode: Mode, on_done=lambda n: None) -> Pass:
    """Decode all prompts, synchronised at both ends."""
    device = next(model.parameters()).device
    joined, ended, parts = {}, {}, []

    def arriving():
        for i, prompt in enumerate(point.prompts):
            joined[i] = time.perf_counter()
            yield prompt

    with (
        packed_head(model, mode.batch * point.config.block_length) if mode.packed else nullcontext(),
        PeakMemory(device) as memory,
        nullcontext() if mode.compile else ForwardCounter(model) as counted,
    ):
        wait(device)
        start, cpu_start = time.perf_counter(), time.process_time()
        for part in decode_stream(model, arriving(), mode.policy, mode.config(point.config), batch_size=mode.batch):
            ended |= dict.fromkeys(part.index.tolist(), time.perf_counter())
            parts.append(part)
            on_done(len(part.index))
        wait(device)
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    latencies = [ended[i] - joined[i] for i in range(len(point.prompts))]
    return Pass(DecodeResult.join(parts), seconds, cpu_seconds, latencies, memory.peak, counted)


def warm_up(model, point: Point, mode: Mode) -> None:
    """Every shape once where shapes are compiled or kernels loaded; elsewhere one block."""
    first = replace(point, prompts=point.prompts[: mode.batch])
    if not mode.compile and next(model.parameters()).device.type == "cpu":
        first = replace(first, config=replace(point.config, gen_length=point.config.block_length))
    run_once(model, first, mode)
    if mode.compile:
        run_once(model, point, mode)


def kernel_seconds(model, point: Point, mode: Mode) -> float | None:
    """Seconds of GPU kernels in one pass over the prompts; None without a GPU."""
    if next(model.parameters()).device.type != "cuda":
        return None
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        run_once(model, point, mode)
    return sum(event.self_device_time_total for event in profile.key_averages()) / 1e6


def agreement(found: DecodeResult, wanted: DecodeResult) -> dict[str, float]:
    """Share of tokens before EOS (of the wanted answers) that are the same, and of answers that are the same whole."""
    same = total = whole = 0
    for i, length in enumerate(wanted.lengths.tolist()):
        equal = found.tokens[i, : length + 1] == wanted.tokens[i, : length + 1]  # the EOS too, where there is one
        same, total, whole = same + equal.sum().item(), total + equal.numel(), whole + equal.all().item()
    return {"tokens": same / total, "answers": whole / len(wanted.lengths)}
