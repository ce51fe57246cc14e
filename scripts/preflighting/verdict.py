"""Whether a step fits the GPUs, and if it does not, which settings make it fit."""

import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing import get_context
from unittest import mock

import torch

from cd4lm.settings import ExperimentConfig, LoRAConfig
from cd4lm.training.processes import LaunchFile, processes_asked, rows_per_step
from cd4lm.training.setup import is_own_teacher
from preflighting.checks import GB, NO, OK, UNKNOWN, Row, row, size
from preflighting.step import Prediction, measure, predict

MARGIN = 1.15  # a prediction and this share more must fit: what it may be off, and what fragmentation takes
LEAST_GAIN = 0.98  # a setting that leaves more of the peak than this is not worth naming
ZERO2, ZERO3 = "configs/accelerate_zero2_8gpu.yaml", "configs/accelerate_zero3_8gpu.yaml"


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


Changed = tuple[str, ExperimentConfig] | None  # overrides as they are typed, and the experiment with them


def recompute(config: ExperimentConfig) -> Changed:
    if config.train.gradient_checkpointing:
        return None
    return "train.gradient_checkpointing=true", with_train(config, gradient_checkpointing=True)


def one_row(config: ExperimentConfig) -> Changed:
    if config.train.batch_size == 1:
        return None
    rows = rows_per_step(config.train)
    setting = f"train.batch_size=1 train.global_batch={rows}"
    return setting, with_train(config, batch_size=1, global_batch=rows)


def bf16(config: ExperimentConfig) -> Changed:
    return None if config.train.bf16 else ("train.bf16=true", with_train(config, bf16=True))


def spread_teacher(config: ExperimentConfig) -> Changed:
    separate = config.objective in ("dscd", "tad") and not is_own_teacher(config)
    if not separate or config.train.shard_teacher or processes_asked(config.train) == 1:
        return None
    return "train.shard_teacher=true", with_train(config, shard_teacher=True)


def spread_student(config: ExperimentConfig) -> Changed:
    file = LaunchFile.of(config.train)
    spread = file is not None and (file.fsdp or (file.deepspeed is not None and file.deepspeed["zero_stage"] == 3))
    if config.lora is not None or spread or processes_asked(config.train) == 1:
        return None
    return f"train.launch={ZERO3}", with_train(config, launch=ZERO3, global_batch=rows_per_step(config.train))


def adapters(config: ExperimentConfig) -> Changed:
    if config.lora is not None:
        return None
    launch = None if config.train.launch is None else ZERO2
    changed = with_train(config, launch=launch, shard_teacher=False, global_batch=rows_per_step(config.train))
    setting = f"'lora={{rank: 32, alpha: 64}}' train.launch={launch or 'null'} train.shard_teacher=false"
    return setting, replace(changed, lora=LoRAConfig(rank=32, alpha=64.0))


# Those first that cost least; each is tried on top of those before it that helped.
KNOBS = (recompute, one_row, bf16, spread_teacher, spread_student, adapters)


def with_train(config: ExperimentConfig, **changes) -> ExperimentConfig:
    return replace(config, train=replace(config.train, **changes))


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
    """The settings, in order, that bring the peak down until it fits; one that hardly helps is left out."""
    found = []
    for knob in KNOBS:
        changed = knob(config)
        if changed is None:
            continue
        say(f"trying {changed[0]}")
        try:
            after = predicted(changed[1]).peak
        except (ValueError, RuntimeError, ImportError):  # does not go with the others, or cannot be run here
            continue
        if after > peak * LEAST_GAIN:
            continue
        config, peak = changed[1], after
        found.append((changed[0], after))
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
