"""A training step in each of the ways that benchmark_training.py compares, and what it takes in time and memory."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from benchmarking.machine import PeakMemory, matmul_ceiling
from benchmarking.shapes import DTYPES, random_model, random_tokens
from cd4lm.diffusion.losses import dscd_loss
from cd4lm.diffusion.masking import nested_masks
from cd4lm.diffusion.noise import row_keys
from cd4lm.model import LLaDAConfig
from cd4lm.model.loading import best_device
from cd4lm.objectives import OBJECTIVES
from cd4lm.settings import LoRAConfig
from cd4lm.training.chunked_loss import Rows, chunked_dscd_loss
from cd4lm.training.throughput import forward_flops

VARIANTS = ("published", "ours", "ours_checkpointing", "ours_lora")
RECIPE = {"weight": 0.9, "temperature": 2.0}  # lambda and T at the start of the published recipe
PROMPT_SHARE = 0.25


@dataclass(frozen=True)
class Work:
    """What is measured: a variant of the step on a random batch (B, L) of a model with random weights.

    chunk: positions whose logits exist at a time. gradients: file in which `published` leaves its gradients for `ours`.
    """

    variant: str
    config: LLaDAConfig
    dtype: str
    batch: int
    length: int
    chunk: int
    steps: int
    gradients: Path | None


@dataclass(frozen=True)
class Step:
    """What is timed. models: those in memory; scored: rows of the head in the student's last pass; passes: forward passes
    of the batch that a step costs, the gradients of activations and of weights counting as one each."""

    student: torch.nn.Module
    models: list[torch.nn.Module]
    loss: Callable[[], torch.Tensor]
    scored: Callable[[], int]
    passes: float


class Batch:
    """Clean tokens x0 (B, L), where the student's masks are, and what student and teacher see."""

    def __init__(self, work: Work, device: torch.device):
        B, L, mask_id = work.batch, work.length, work.config.mask_token_id
        x0 = random_tokens(work.config, B, L, seed=0)
        answer = (torch.arange(L) >= int(PROMPT_SHARE * L)).expand(B, L)
        student, teacher = nested_masks(answer, row_keys(torch.arange(B), 0))
        self.x0, self.scored, self.real = x0.to(device), student.to(device), torch.ones_like(x0).to(device)
        self.x_s, self.x_t = (x0.masked_fill(m, mask_id).to(device) for m in (student, teacher))  # (B, L)

    def published(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """The loss from logits (B, L, V)."""
        return dscd_loss(student, teacher, self.x0.masked_fill(~self.scored, -100), **RECIPE).total

    def chunked(self, student: Rows, teacher: Rows, chunk: int) -> torch.Tensor:
        """The loss from hidden states of the masked positions."""
        return chunked_dscd_loss(student, teacher, self.x0[self.scored], chunk=chunk, **RECIPE).total


def build(work: Work, device: torch.device) -> tuple[torch.nn.Module, torch.nn.Module | None]:
    """Student and teacher; None where the teacher is the student without its adapters."""
    make = partial(random_model, work.config, device=device, dtype=DTYPES[work.dtype])
    student, teacher = make(seed=1), None
    if work.variant == "ours_lora":
        from cd4lm.training.lora import add_adapters  # peft, which the other variants do without

        student = add_adapters(student, LoRAConfig())
    else:
        teacher = make(seed=2).eval().requires_grad_(False)
    if work.variant in ("ours_checkpointing", "ours_lora"):
        student.gradient_checkpointing_enable({"use_reentrant": False})
    return student.train(), teacher


def loss_of(work: Work, batch: Batch, student: torch.nn.Module, teacher: torch.nn.Module | None) -> torch.Tensor:
    """Both forwards and the loss."""
    context = {"attention_mask": batch.real}
    if work.variant == "published":
        logits = student(input_ids=batch.x_s, **context).logits  # (B, L, V)
        with torch.no_grad():
            logits_t = teacher(input_ids=batch.x_t, **context).logits
        return batch.published(logits, logits_t)
    from cd4lm.training.setup import forward_both  # the trainer's own, and its imports, in the measuring process only

    x_s, x_t, loss = (batch.x_s, batch.scored), (batch.x_t, batch.scored), partial(batch.chunked, chunk=work.chunk)
    return forward_both(student, context, x_s, x_t, loss, frozen=teacher, adapted=student)


def loss_peak(work: Work) -> int:
    """Bytes that the heads and the loss take by themselves, from random hidden states."""
    device, d, V = best_device()[0], work.config.d_model, work.config.vocab_size
    make, batch = partial(torch.randn, dtype=DTYPES[work.dtype], device=device), Batch(work, device)
    hidden, hidden_t = make(work.batch, work.length, d).requires_grad_(), make(work.batch, work.length, d)  # (B, L, d)
    head = (make(V, d) * 0.02).requires_grad_(work.variant != "ours_lora")
    with PeakMemory(device) as memory:
        if work.variant == "published":
            with torch.no_grad():
                teacher = hidden_t @ head.T
            loss = batch.published(hidden @ head.T, teacher)
        else:
            rows = [Rows(hidden[batch.scored], head), Rows(hidden_t[batch.scored], head.detach())]
            loss = batch.chunked(*rows, work.chunk)
        loss.backward()
        loss.item()
    return memory.peak - memory.before


def step_of(work: Work, device: torch.device) -> Step:
    """The variant on its random batch."""
    if work.variant in OBJECTIVES:
        from benchmarking.objective_steps import objective_step  # the trainers, in the measuring process only

        return objective_step(work, int(PROMPT_SHARE * work.length), device)
    (student, teacher), batch = build(work, device), Batch(work, device)
    models = [student] if teacher is None else [student, teacher]
    passes = 3 if work.variant == "ours_lora" else 4
    loss, scored = partial(loss_of, work, batch, student, teacher), int(batch.scored.sum())
    return Step(student, models, loss, lambda: scored, passes)


def measure(work: Work) -> dict:
    """Time and memory of one variant in this process."""
    device = best_device()[0]
    record = {} if work.variant in OBJECTIVES else {"loss_peak": loss_peak(work)}
    what = step_of(work, device)
    student = what.student
    wall, busy = [], []

    def step() -> float:
        start, cpu = time.perf_counter(), time.process_time()
        student.zero_grad(set_to_none=True)
        loss = what.loss()
        loss.backward()
        value = loss.item()  # waits for the device
        wall.append(time.perf_counter() - start)
        busy.append(time.process_time() - cpu)
        return value

    with PeakMemory(device) as memory:
        loss = step()
    if device.type == "cuda":  # the first step also loads kernels there
        wall.clear(), busy.clear(), step()
    for _ in range(work.steps - 1):
        step()
    if work.gradients is not None and work.variant == "published":
        torch.save((loss, {name: p.grad for name, p in student.named_parameters()}), work.gradients)
    elif work.gradients is not None and work.variant == "ours":
        record["agreement"] = agreement(student, loss, *torch.load(work.gradients, map_location="cpu"))
    scored = what.scored()
    return record | {
        "weights": sum(p.nbytes for model in what.models for p in model.parameters()),
        "step_peak": memory.peak - memory.before,
        "total_peak": memory.peak,
        "seconds": wall,
        "cpu_seconds": busy,
        "scored_positions": scored,
        "passes": what.passes,
        "flops": what.passes * forward_flops(work.config, work.batch, work.length, scored),
        "matmul_rate": matmul_ceiling(student, {work.batch * work.length}),
    }


def agreement(student: torch.nn.Module, loss: float, published: float, gradients: dict[str, torch.Tensor]) -> dict:
    """How loss and gradients of the student differ from those of `published`, same weights and batch."""
    wanted = torch.cat([gradient.float().flatten() for gradient in gradients.values()])
    off = torch.cat([p.grad.float().cpu().flatten() for p in student.parameters()]).sub_(wanted)
    return {
        "loss_published": published,
        "loss_ours": loss,
        "gradient_largest_difference": off.abs().max().item(),
        "gradient_largest_value": wanted.abs().max().item(),
        "gradient_relative_difference": (off.double().norm() / wanted.double().norm()).item(),
    }
