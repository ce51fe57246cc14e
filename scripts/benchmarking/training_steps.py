"""One DSCD step in each of the ways that benchmark_training.py compares, and what it takes in time and memory."""

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from benchmarking.machine import PeakMemory, measure_ceiling
from benchmarking.shapes import DTYPES, random_model, random_tokens
from cd4lm.diffusion.masking import nested_masks
from cd4lm.diffusion.noise import row_keys
from cd4lm.model import LLaDAConfig
from cd4lm.model.loading import best_device
from cd4lm.settings import LoRAConfig
from cd4lm.training.chunked_loss import Rows, chunked_dscd_loss
from cd4lm.training.consistency_loss import dscd_loss
from cd4lm.training.setup import forward_both
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


class Step:
    """Both forwards, the loss and the gradients, which are left in the student's parameters."""

    def __init__(self, work: Work):
        self.work, (self.device, _) = work, best_device()
        build = partial(random_model, work.config, device=self.device, dtype=DTYPES[work.dtype])
        self.student, self.teacher, self.batch = build(seed=1), None, Batch(work, self.device)
        if work.variant == "ours_lora":
            from cd4lm.training.lora import add_adapters  # peft, which the other variants do without

            self.student = add_adapters(self.student, LoRAConfig())
        else:
            self.teacher = build(seed=2).eval().requires_grad_(False)
        if work.variant in ("ours_checkpointing", "ours_lora"):
            self.student.gradient_checkpointing_enable({"use_reentrant": False})
        self.student.train()

    def loss(self) -> torch.Tensor:
        batch, context = self.batch, {"attention_mask": self.batch.real}
        if self.work.variant == "published":
            student = self.student(input_ids=batch.x_s, **context).logits  # (B, L, V)
            with torch.no_grad():
                teacher = self.teacher(input_ids=batch.x_t, **context).logits
            return batch.published(student, teacher)
        student, teacher = (batch.x_s, batch.scored), (batch.x_t, batch.scored)
        loss = partial(batch.chunked, chunk=self.work.chunk)
        return forward_both(self.student, context, student, teacher, loss, frozen=self.teacher, adapted=self.student)

    def run(self) -> float:
        """The loss, whose reading waits for the device."""
        self.student.zero_grad(set_to_none=True)
        loss = self.loss()
        loss.backward()
        return loss.item()


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


def measure(work: Work) -> dict:
    """Time and memory of one variant in this process."""
    record = {"loss_peak": loss_peak(work)}
    step = Step(work)
    wall, busy = [], []

    def run() -> float:
        start, cpu = time.perf_counter(), time.process_time()
        loss = step.run()
        wall.append(time.perf_counter() - start)
        busy.append(time.process_time() - cpu)
        return loss

    with PeakMemory(step.device) as memory:
        loss = run()
    if step.device.type == "cuda":  # the first step also loads kernels there
        wall.clear(), busy.clear(), run()
    for _ in range(work.steps - 1):
        run()
    if work.gradients is not None and work.variant == "published":
        torch.save((loss, {name: p.grad for name, p in step.student.named_parameters()}), work.gradients)
    elif work.gradients is not None and work.variant == "ours":
        record["agreement"] = agreement(step, loss, *torch.load(work.gradients, map_location="cpu"))
    models = [model for model in (step.student, step.teacher) if model is not None]
    scored = int(step.batch.scored.sum())
    # Both forwards and, at the cost of one forward each, the gradients of activations and of weights that are trained.
    passes = 3 if work.variant == "ours_lora" else 4
    return record | {
        "weights": sum(p.nbytes for model in models for p in model.parameters()),
        "step_peak": memory.peak - memory.before,
        "total_peak": memory.peak,
        "seconds": wall,
        "cpu_seconds": busy,
        "scored_positions": scored,
        "flops": passes * forward_flops(work.config, work.batch, work.length, scored),
        "matmul_rate": measure_ceiling(step.student, DTYPES[work.dtype], {work.batch * work.length}).matmul,
    }


def agreement(step: Step, loss: float, published: float, wanted: dict[str, torch.Tensor]) -> dict:
    """How the loss and the gradients that `step` holds differ from those of `published`, same weights and batch."""
    largest = largest_off = total = total_off = 0.0
    for name, parameter in step.student.named_parameters():
        want = wanted[name].float()
        off = parameter.grad.float().cpu() - want
        largest, largest_off = max(largest, want.abs().max().item()), max(largest_off, off.abs().max().item())
        total, total_off = total + want.double().square().sum().item(), total_off + off.double().square().sum().item()
    return {
        "loss_published": published,
        "loss_ours": loss,
        "gradient_largest_difference": largest_off,
        "gradient_largest_value": largest,
        "gradient_relative_difference": (total_off / total) ** 0.5,
    }
