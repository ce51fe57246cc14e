"""One optimizer step of an experiment as its trainer runs it, predicted without data or measured with it."""

import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from benchmarking.machine import PeakMemory
from benchmarking.objective_steps import batch

from cd4lm.model.loading import load_config, model_of
from cd4lm.settings import ExperimentConfig
from cd4lm.training.processes import LaunchFile, processes_asked
from cd4lm.training.setup import build_student, build_teacher, check_whole, is_own_teacher, low_precision
from cd4lm.training.train import TRAINING, bytes_to_write, training_arguments
from cd4lm.training.trainer import StudentTrainer
from preflighting.fake import FakeStep, RealMasks
from preflighting.sharded import fake_group, local_bytes, prepared, shard, zero_states

CANDIDATES = 1024  # example ids from which those with the most masked positions are taken


@dataclass(frozen=True)
class Prediction:
    """Bytes on each GPU: weights and optimizer, held all the time, and the peak, which holds gradients and activations too.

    trained: parameters; flops: of one micro-batch on one GPU; micro_batches: of a step; rows, length: of a micro-batch;
    written: most bytes of checkpoints and student on disk; how: what counted.
    """

    weights: int
    optimizer: int
    peak: int
    trained: int
    flops: int
    micro_batches: int
    rows: int
    length: int
    written: int
    how: str

    def as_json(self) -> dict:
        return asdict(self)


def loader(device: str) -> Callable:
    """What reads a checkpoint in place of load_model: a model of its configuration on a device, with random weights."""

    def load(folder, *, dtype: torch.dtype):
        before = torch.get_default_dtype()
        try:
            torch.set_default_dtype(dtype)
            with torch.device(device):
                return model_of(load_config(folder))
        finally:
            torch.set_default_dtype(before)

    return load


def make_trainer(config: ExperimentConfig, folder: str, *, deepspeed: bool, fake: FakeStep | None) -> StudentTrainer:
    """The experiment's own trainer without data, its models with fake weights or random ones."""
    how, paths, load = TRAINING[config.objective], config.trajectories, loader("cpu" if fake is None else "meta")
    own = {config.objective: vars(config)[config.objective]}
    with nullcontext() if fake is None else torch.device("meta"):
        student = build_student(config, masters_elsewhere=deepspeed, load=load)
    teacher = build_teacher(config, load) if how.runs_teacher else None
    walks = config.cdlm is not None and not is_own_teacher(config)
    walked = load(config.teacher, dtype=low_precision(config.train)) if walks else None
    if fake is not None:
        student, teacher, walked = (m if m is None else fake.made(m) for m in (student, teacher, walked))
    if config.cdlm is not None:
        head = None if walked is None else walked.get_output_embeddings().weight.detach().clone()
        own |= {"teacher_head": head, "block_length": paths.block_length, "grid": paths.grid}
    if how.runs_teacher:
        own |= {"teacher": teacher, "teacher_attention": load_config(config.teacher).attention}
    arguments = training_arguments(config.train, 1, Path(folder), alone=True)
    trainer = how.trainer(student, arguments, **own, train_dataset=[], eval_dataset=[])
    if config.train.gradient_checkpointing:
        student.gradient_checkpointing_enable({"use_reentrant": False})
    student.train()
    trainer.current_gradient_accumulation_steps = arguments.gradient_accumulation_steps
    trainer.state.max_steps = arguments.max_steps
    if config.objective == "d3llm":  # its masks grow
        trainer.state.global_step = arguments.max_steps - 1
    return trainer


def worst_batch(config: ExperimentConfig, trainer: StudentTrainer) -> dict[str, torch.Tensor]:
    """A micro-batch of the longest rows that the format allows, with the example ids whose masks are the largest.

    An answer may take the whole row but for a token of prompt; a recorded path is as long as the canvas.
    """
    B, L, model = trainer.args.per_device_train_batch_size, config.format.max_length, trainer.model.config
    prompt = max(1, L - config.format.answer_length) if config.on_paths else 1
    how = {"block": config.trajectories.block_length if config.on_paths else L}
    if config.tad is not None:
        longest = config.tad.max_length or model.max_sequence_length
        how["privilege"] = max(0, longest - L)
    rows = batch(model, B, L, prompt, torch.device("cpu"), **how)
    many = {name: rows[name][:1].expand(CANDIDATES, *rows[name].shape[1:]) for name in rows if name != "hidden"}
    many["example_id"] = torch.arange(CANDIDATES)
    scored = trainer.head_rows(many)
    return rows | {"example_id": scored.argsort(descending=True)[:B]}


def micro_batches(trainer: StudentTrainer, model, rows: dict[str, torch.Tensor], count: int) -> None:
    """Forward and backward of `count` micro-batches, as the Trainer's loop runs them."""
    batches, counts = trainer.get_batch_samples(iter([rows] * count), count, trainer.args.device)
    for inputs in batches:
        trainer.training_step(model, inputs, counts)


def update(trainer: StudentTrainer, optimizer) -> None:
    trainer.accelerator.clip_grad_norm_(trainer.model.parameters(), trainer.args.max_grad_norm)
    optimizer.step()


def predict(config: ExperimentConfig) -> Prediction:
    """What one step of the experiment takes on each of the processes that it asks for. Raises ValueError.

    The step is the last micro-batch of one in the middle of a run: moments are there, and with accumulation gradients.
    """
    file, processes, fake = LaunchFile.of(config.train), processes_asked(config.train), FakeStep()
    zero = None if file is None or file.deepspeed is None or processes == 1 else file.deepspeed["zero_stage"]
    fsdp = file is not None and file.fsdp and processes > 1
    if config.lora is not None:
        check_whole(fsdp or zero == 3)
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(config, folder, deepspeed=zero is not None, fake=fake)
    with fake_group(processes):
        written, trained = bytes_to_write(trainer.model, config), trained_parameters(trainer)
        rows = worst_batch(config, trainer)
        with fake.mode, RealMasks():  # the ranks of a group are real
            shard(trainer, config, fsdp=fsdp)
        held = [m for m in (trainer.model, trainer.teacher, vars(trainer).get("teacher_head")) if m is not None]
        with fake.holding(*held):
            weights = fake.memory.held()
            model, optimizer, how = prepared(trainer, processes, fsdp=fsdp, deepspeed=zero is not None)
        buckets = fake.memory.held() - weights
        with fake.running():
            begin(optimizer, trainer, trainer.args.gradient_accumulation_steps > 1)
            states = fake.memory.held() - weights - buckets - gradient_bytes(trainer)
            micro_batches(trainer, model, rows, 1)
            if optimizer is not None:
                update(trainer, optimizer)
        peak = fake.memory.held("peak")
        if zero is not None:
            machines = file.machines
            own, states, how = zero_states(trainer, zero, processes // machines, machines)
            weights, peak = weights - own, peak - own + states
    size = {"rows": len(rows["input_ids"]), "length": rows["input_ids"].shape[1]}
    return Prediction(
        weights, states, peak, trained, fake.flops, trainer.args.gradient_accumulation_steps, **size,
        written=written, how=how,
    )  # fmt: skip


def trained_parameters(trainer: StudentTrainer) -> int:
    return sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)


def gradient_bytes(trainer: StudentTrainer) -> int:
    return sum(local_bytes(p.grad) for p in trainer.model.parameters() if p.grad is not None)


def begin(optimizer, trainer: StudentTrainer, keep_gradients: bool) -> None:
    """The state between two micro-batches: the optimizer's moments, and gradients if there were earlier micro-batches."""
    if optimizer is None:
        return
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    if not keep_gradients:
        optimizer.zero_grad()


def measure(config: ExperimentConfig) -> dict:
    """Two real steps in this process, random weights on the device at hand: bytes held at most, weights included."""
    torch.manual_seed(config.train.seed)
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(config, folder, deepspeed=False, fake=None)
        rows = {name: tensor.to(trainer.args.device) for name, tensor in worst_batch(config, trainer).items()}
        trainer.create_optimizer()
        model, optimizer = trainer.accelerator.prepare(trainer.model, trainer.optimizer)
        models = [m for m in (trainer.model, trainer.teacher) if m is not None]
        weights = sum(p.nbytes for m in models for p in m.parameters())
        with PeakMemory(trainer.args.device) as memory:
            for _ in range(2):
                micro_batches(trainer, model, rows, min(2, trainer.args.gradient_accumulation_steps))
                update(trainer, optimizer)
                optimizer.zero_grad()
        return {"weights": weights, "peak": weights + memory.peak - memory.before}
