"""One DSCD step in each of the ways that benchmark_training.py compares, and what it holds in memory."""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from benchmarking.training_shapes import Shape, random_model
from cd4lm.diffusion.masking import nested_masks
from cd4lm.diffusion.noise import row_keys
from cd4lm.settings import LoRAConfig
from cd4lm.training.chunked_loss import Rows, chunked_dscd_loss
from cd4lm.training.consistency_loss import dscd_loss
from cd4lm.training.setup import forward_both

VARIANTS = ("published", "ours", "ours_checkpointing", "ours_lora")
WEIGHT, TEMPERATURE = 0.9, 2.0  # lambda and T of the published recipe's start
PROMPT_SHARE = 0.25


class Step:
    """One batch and how each variant turns it into a loss; gradients are left in the student's parameters."""

    def __init__(self, variant: str, shape: Shape, arguments: argparse.Namespace):
        self.device, dtype = torch.device(arguments.device), getattr(torch, arguments.dtype)
        self.variant, self.chunk = variant, arguments.chunk
        build = partial(random_model, shape, device=self.device, dtype=dtype)
        self.student, self.teacher = build(1), None
        if variant == "ours_lora":
            from cd4lm.training.lora import add_adapters

            self.student = add_adapters(self.student, LoRAConfig())
        else:
            self.teacher = build(2).eval().requires_grad_(False)
        if variant in ("ours_checkpointing", "ours_lora"):
            self.student.gradient_checkpointing_enable({"use_reentrant": False})
        self.student.train()
        self.make_batch(shape, arguments)

    def make_batch(self, shape: Shape, arguments: argparse.Namespace) -> None:
        torch.manual_seed(0)
        B, L = arguments.batch, arguments.length
        x0 = torch.randint(1, shape.vocab_size - 1, (B, L))
        answer = (torch.arange(L) >= int(PROMPT_SHARE * L)).expand(B, L)
        student, teacher = nested_masks(answer, row_keys(torch.arange(B), 0))
        self.attention_mask = torch.ones_like(x0).to(self.device)
        self.x0, self.scored = x0.to(self.device), student.to(self.device)
        self.x_s, self.x_t = (x0.masked_fill(m, shape.vocab_size - 1).to(self.device) for m in (student, teacher))

    def loss(self) -> torch.Tensor:
        options = {"temperature": TEMPERATURE, "weight": WEIGHT}
        if self.variant == "published":
            student = self.student(input_ids=self.x_s, attention_mask=self.attention_mask).logits  # (B, L, V)
            with torch.no_grad():
                teacher = self.teacher(input_ids=self.x_t, attention_mask=self.attention_mask).logits
            return dscd_loss(student, teacher, self.x0.masked_fill(~self.scored, -100), **options).total

        def at_heads(student: Rows, teacher: Rows) -> torch.Tensor:
            return chunked_dscd_loss(student, teacher, self.x0[self.scored], chunk=self.chunk, **options).total

        context = {"attention_mask": self.attention_mask}
        student, teacher = (self.x_s, self.scored), (self.x_t, self.scored)
        return forward_both(
            self.student, context, student, teacher, at_heads, frozen=self.teacher, adapted=self.student
        )

    def run(self) -> float:
        """Loss and gradients; returns the loss, which waits for the device."""
        self.student.zero_grad(set_to_none=True)
        loss = self.loss()
        loss.backward()
        return loss.item()


class LossAlone(Step):
    """Heads and loss without the models, from random hidden states."""

    def __init__(self, variant: str, shape: Shape, arguments: argparse.Namespace):
        self.device, self.variant, self.chunk = torch.device(arguments.device), variant, arguments.chunk
        self.make_batch(shape, arguments)
        dtype, d = getattr(torch, arguments.dtype), shape.d_model
        make = partial(torch.randn, dtype=dtype, device=self.device)
        self.hidden = make(arguments.batch, arguments.length, d).requires_grad_()
        self.head = (make(shape.vocab_size, d) * 0.02).requires_grad_(variant != "ours_lora")
        self.teacher_hidden, self.teacher_head = make(arguments.batch, arguments.length, d), self.head.detach()

    def run(self) -> float:
        self.hidden.grad = self.head.grad = None
        options = {"temperature": TEMPERATURE, "weight": WEIGHT}
        if self.variant == "published":
            with torch.no_grad():
                teacher = self.teacher_hidden @ self.teacher_head.T
            labels = self.x0.masked_fill(~self.scored, -100)
            loss = dscd_loss(self.hidden @ self.head.T, teacher, labels, **options).total
        else:
            student = Rows(self.hidden[self.scored], self.head)
            teacher = Rows(self.teacher_hidden[self.scored], self.teacher_head)
            loss = chunked_dscd_loss(student, teacher, self.x0[self.scored], chunk=self.chunk, **options).total
        loss.backward()
        return loss.item()


def peak_memory(device: torch.device, work: Callable[[], object]) -> tuple[int, int]:
    """Bytes held before `work`, and the most held during it: of the device, or of this process on a CPU (Linux)."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        torch.cuda.synchronize()
        return before, torch.cuda.max_memory_allocated()
    Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark back to what is held now
    before = process_memory("VmRSS")
    work()
    return before, process_memory("VmHWM")


def process_memory(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024
