"""Whether a step fits the GPUs, and if it does not, which settings make it fit."""

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing import get_context
from unittest import mock

import torch

from cd4lm.settings import ExperimentConfig, LoRAConfig
from cd4lm.training.processes import LaunchFile, processes_asked, rows_per_step
from preflighting.checks import GB, NO, OK, UNKNOWN, Row, row, size
from preflighting.step import Prediction, measure, predict

MARGIN = 1.15  # a prediction and this share more must fit: what it may be off, and what fragmentation takes
LEAST_GAIN = 0.98  # a setting that leaves more of the peak than this is not worth naming
ZERO3 = "configs/accelerate_zero3_8gpu.yaml"


def predicted(config: ExperimentConfig) -> Prediction:
    """`predict`, where there are GPUs in a process that sees none: the step is run as on a CPU."""
    return apart(predict, config, CUDA_VISIBLE_DEVICES="") if torch.cuda.is_available() else predict(config)


def measured_apart(config: ExperimentConfig) -> dict:
    """`measure` in a process of its own, whose allocator gives back each tensor of more than 64 kB when it is freed."""
    return apart(measure, config, MALLOC_MMAP_THRESHOLD_="65536")


def apart(work: Callable, config: ExperimentConfig, **environment: str):
    """What `work` returns in a process of its own with this environment. Raises ValueError if it was killed."""
    with (
        mock.patch.dict("os.environ", environment),
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool,
    ):
        try:
            return pool.submit(work, config).result()
        except (BrokenProcessPool, torch.OutOfMemoryError):
            raise ValueError(
                "a step was killed or ran out of memory: leave out --measure, or make it smaller"
            ) from None


def verdict_of(peak: int, memory: float) -> str:
    """OK, NO, or UNKNOWN where the margin decides. peak, memory: bytes."""
    return NO if peak > memory else OK if peak * MARGIN <= memory else UNKNOWN


def knobs(config: ExperimentConfig) -> Iterator[tuple[str, ExperimentConfig]]:
    """Settings that lower the peak, those first that cost least, each on top of the ones before it."""
    train, processes = config.train, processes_asked(config.train)
    rows, file = rows_per_step(train), LaunchFile.of(train)
    if not train.gradient_checkpointing:
        train = replace(train, gradient_checkpointing=True)
        yield "train.gradient_checkpointing=true", replace(config, train=train)
    if train.batch_size > 1:
        train = replace(train, batch_size=1, global_batch=rows)
        yield f"train.batch_size=1 train.global_batch={rows}", replace(config, train=train)
    if not train.bf16:
        train = replace(train, bf16=True)
        yield "train.bf16=true", replace(config, train=train)
    separate = config.objective in ("dscd", "tad") and (config.lora is None or config.init_from is not None)
    if separate and processes > 1 and not train.shard_teacher:
        train = replace(train, shard_teacher=True)
        yield "train.shard_teacher=true", replace(config, train=train)
    deepspeed = file is not None and file.deepspeed is not None and file.deepspeed["zero_stage"] == 3
    if config.lora is None and processes > 1 and not deepspeed and not (file is not None and file.fsdp):
        train = replace(train, launch=ZERO3, global_batch=rows)
        yield f"train.launch={ZERO3}", replace(config, train=train)
    if config.lora is None:
        launch = None if train.launch is None else ZERO3.replace("zero3", "zero2")
        train = replace(train, launch=launch, shard_teacher=False, global_batch=rows)
        adapted = replace(config, train=train, lora=LoRAConfig(rank=32, alpha=64.0))
        yield f"'lora={{rank: 32, alpha: 64}}' train.launch={launch or 'null'} train.shard_teacher=false", adapted


@dataclass(frozen=True)
class Remedy:
    """Settings that help, each with the peak in bytes that it leaves, and whether the last of them makes the step fit."""

    settings: tuple[tuple[str, int], ...]
    fits: bool

    @property
    def words(self) -> str:
        said = ", then ".join(f"{setting} ({size(peak)})" for setting, peak in self.settings)
        if not self.settings:
            return "no setting here makes it smaller: take more or larger GPUs"
        return f"fits with {said}" if self.fits else f"{said} helps but is not enough: take more or larger GPUs"


def remedy(config: ExperimentConfig, peak: int, memory: float, say: Callable[[str], None]) -> Remedy:
    """The settings, in order, that bring the peak down until it fits.

    A setting that turns out not to help stays off the list; it is left on for those after it, which cost more.
    """
    found = []
    for setting, changed in knobs(config):
        say(f"trying {setting}")
        try:
            after = predicted(changed).peak
        except (ValueError, RuntimeError, ImportError):  # does not go with the others, or cannot be run here
            continue
        if after > peak * LEAST_GAIN:
            continue
        found.append((setting, after))
        peak = after
        if verdict_of(peak, memory) == OK:
            return Remedy(tuple(found), True)
    return Remedy(tuple(found), False)


def memory_row(check: str, config: ExperimentConfig, found: Prediction, memory: float, origin: str) -> Row:
    """The line of one student."""
    verdict, rest = verdict_of(found.peak, memory), found.peak - found.weights - found.optimizer
    what = (
        f"peak {size(found.peak)} of {memory / GB:g} GB: weights {size(found.weights)}, optimizer and sharded states "
        f"{size(found.optimizer)}, gradients and activations {size(rest)}; micro-batch of {found.rows} x "
        f"{found.length} tokens, {found.micro_batches} a step; {found.how}; shape: {origin}"
    )
    if verdict == UNKNOWN:
        what += f"; within {MARGIN - 1:.0%} of the memory, which is what a prediction may be off"
    if config.train.optimizer == "adamw_8bit":
        what += "; counted with AdamW in float32, since its 8-bit kernels do not run without data"
        verdict = UNKNOWN if verdict == NO else verdict
    return row(check, verdict, what, memory=memory, **found.as_json())


def progress(text: str) -> None:
    print(f"{text} ...", file=sys.stderr, flush=True)
