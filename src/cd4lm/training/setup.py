"""Teacher and student of a run: their precision, adapters, sharding, and the forward of both."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers.integrations import is_deepspeed_zero3_enabled

from cd4lm.config import require
from cd4lm.model import DiffusionLM
from cd4lm.model.loading import load_model
from cd4lm.settings import ExperimentConfig, TrainConfig
from cd4lm.training.chunked_loss import Rows
from cd4lm.training.fit import student_config

Load = Callable[..., DiffusionLM]  # a model from a checkpoint folder and its dtype


def low_precision(config: TrainConfig) -> torch.dtype:
    return torch.bfloat16 if config.bf16 else torch.float32


def teacher_dtype(config: TrainConfig) -> torch.dtype:
    """The dtype of a separate teacher's weights."""
    return low_precision(config) if config.teacher_dtype == "auto" else getattr(torch, config.teacher_dtype)


def is_own_teacher(config: ExperimentConfig) -> bool:
    """Whether the teacher is the student with its adapters off, which it cannot be if the student starts elsewhere."""
    return config.lora is not None and config.init_from is None


def build_teacher(config: ExperimentConfig, load: Load = load_model) -> DiffusionLM | None:
    """The frozen teacher, or None where it is the student with its adapters off. load: reads a checkpoint."""
    if is_own_teacher(config):
        return None
    teacher = load(config.teacher, dtype=teacher_dtype(config.train))
    compile_blocks(teacher, config.train)
    return teacher


def start_model(config: ExperimentConfig, dtype: torch.dtype, load: Load = load_model) -> DiffusionLM:
    """The checkpoint that the student starts from, with the student's attention."""
    model, wanted = load(config.init_from or config.teacher, dtype=dtype), student_config(config)
    model.config.set_attention(wanted.attention, wanted.block_length, wanted.block_grid)
    return model


def build_student(config: ExperimentConfig, *, masters_elsewhere: bool, load: Load = load_model) -> torch.nn.Module:
    """The student: every weight trained, or with adapters on a base that never changes.

    masters_elsewhere: DeepSpeed keeps float32 master weights; otherwise a fully trained student is float32 itself.
    With LoRA the base is in low precision, the adapters in float32. load: reads a checkpoint.
    """
    whole = config.lora is None and not masters_elsewhere
    student = start_model(config, torch.float32 if whole else low_precision(config.train), load)
    compile_blocks(student, config.train)
    if config.lora is None:
        return student
    check_whole(is_deepspeed_zero3_enabled() or os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true")
    from cd4lm.training.lora import add_adapters  # needs peft, which nothing else does

    return add_adapters(student, config.lora)


def check_whole(in_parts: bool) -> None:
    """Raise ValueError if adapters are asked for on weights that the launcher shards."""
    require(not in_parts, "lora needs whole weights on each device: launch with DDP or ZeRO-2, not ZeRO-3 or FSDP")


def compile_blocks(model: DiffusionLM, config: TrainConfig) -> None:
    """torch.compile each block in place: they share one compilation, and the names in the checkpoint do not change."""
    if config.compile:
        for block in model.blocks:
            block.compile(dynamic=True)


def shard_frozen(model: DiffusionLM, device: torch.device) -> None:
    """Spread a frozen model over all processes, each block gathered only while it computes (FSDP2).

    It works beside any way of training the student; every process must call the model equally often.
    Raises ValueError with one process, where there is nothing to spread over.
    """
    require(
        torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1,
        "shard_teacher=true needs several processes: start with NUM_PROCESSES or a launch file",
    )
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    model.requires_grad_(False)
    for part in (*model.blocks, model):
        fully_shard(part, mesh=mesh)


def forward_both(
    model: torch.nn.Module,
    context: dict[str, torch.Tensor],
    student: tuple[torch.Tensor, torch.Tensor],
    teacher: tuple[torch.Tensor, torch.Tensor] | None,
    loss: Callable[[Rows, Rows | None], torch.Tensor],
    *,
    frozen: torch.nn.Module | None,
    adapted: torch.nn.Module,
    attention: str | None = None,
    teacher_context: dict[str, torch.Tensor] | None = None,
) -> torch.Tensor:
    """loss(student's Rows, teacher's Rows or None), called while both heads' weights are gathered.

    model: the student as the launcher wrapped it. context: attention_mask (B, L) and prompt_length (B,).
    student, teacher: (input_ids (B, L), bool (B, L) where to take rows). teacher_context: of a teacher whose input is
    another than the student's, with as many rows to take.
    frozen: the teacher; None if it is `adapted`, the bare student, with its adapters off and this attention.
    Each head is entered once whatever the number of rows: launchers that gather a sharded weight on entry would hang
    if processes entered unequally often.
    """

    def learn(reduce: Callable) -> torch.Tensor:
        x, at = student
        return model(input_ids=x, **context, logits_at=at, reduce=reduce).reduced

    def teach(which, reduce: Callable, attention: str | None = None) -> torch.Tensor:
        x, at = teacher
        own = context if teacher_context is None else teacher_context
        return which(input_ids=x, **own, logits_at=at, attention=attention, reduce=reduce).reduced

    if teacher is None:
        return learn(lambda h, head: loss(Rows(h, head), None))
    if frozen is None:
        with torch.no_grad(), adapted.disable_adapter(), without_dropout(adapted):
            h_t = teach(model, lambda h, _: h, attention)
        return learn(lambda h, head: loss(Rows(h, head), Rows(h_t, head)))
    # The teacher's head is gathered only while it runs, so it runs inside the student's head.
    return learn(lambda h, head: teach(frozen, lambda h_t, head_t: loss(Rows(h, head), Rows(h_t, head_t))))


@contextmanager
def without_dropout(model: torch.nn.Module) -> Iterator[None]:
    """Dropout off for what a model says as a target, whatever mode it is in."""
    layers = [m for m in model.modules() if isinstance(m, torch.nn.Dropout) and m.training]
    for layer in layers:
        layer.eval()
    try:
        yield
    finally:
        for layer in layers:
            layer.train()
