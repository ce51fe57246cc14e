"""One step of each training objective, by its own trainer, on a random batch: what benchmark_training.py compares."""

import tempfile
from functools import partial

import torch
from transformers import TrainingArguments

from benchmarking.shapes import DTYPES, random_model, random_tokens
from benchmarking.training_steps import Step, Work
from cd4lm.diffusion.masking import random_ranks
from cd4lm.diffusion.noise import row_keys, uniform
from cd4lm.objectives import CDLMConfig, D3LLMConfig, DParallelConfig, DSCDConfig, TADConfig
from cd4lm.training.train import TRAINING
from cd4lm.training.trainer import StudentTrainer

BLOCK = 32


def batch(
    config, B: int, L: int, prompt: int, device: torch.device, block: int = BLOCK, privilege: int | None = None
) -> dict[str, torch.Tensor]:
    """What the collators make, every tensor of every objective: prompts of one length, answers of L - prompt tokens.

    block: tokens per block of the recorded paths. privilege: tokens of TAD's teacher before the prompt, by default as
    many as the answer has.
    """
    G, d = L - prompt, config.d_model
    told = G if privilege is None else privilege
    answer = (torch.arange(L) >= prompt).expand(B, L)
    noise = uniform(row_keys(torch.arange(B), 0), L)
    place = torch.arange(L) - prompt
    in_block = [
        random_ranks(answer & (place.div(block, rounding_mode="floor") == k), noise) for k in range(-(-G // block))
    ]
    order = torch.full((B, L), -1)
    for k, ranks in enumerate(in_block):
        order = torch.where(ranks < L, ranks + block * k, order)
    x0 = random_tokens(config, B, L, seed=0)
    longer = torch.cat((random_tokens(config, B, told, seed=1), x0), dim=1)  # the reference answer comes first
    found = {
        "example_id": torch.arange(B),
        "input_ids": x0,
        "attention_mask": torch.ones_like(x0),
        "answer": answer,
        "prompt_length": torch.full((B,), prompt),
        "order": order,
        "hidden": torch.randn(B, G, d),
        "teacher_input_ids": longer,
        "teacher_attention_mask": torch.ones_like(longer),
        "teacher_answer": (torch.arange(L + told) >= prompt + told).expand(B, L + told),
        "teacher_prompt_length": torch.full((B,), prompt + told),
    }
    found |= {f"truth_{name}": found[name] for name in ("input_ids", "attention_mask", "answer")}
    return {name: tensor.to(device) for name, tensor in found.items()}


def settings_of(objective: str, chunk: int) -> dict:
    """The trainer's own arguments: the published settings."""
    kinds = {
        "dscd": DSCDConfig,
        "cdlm": CDLMConfig,
        "dparallel": DParallelConfig,
        "d3llm": D3LLMConfig,
        "tad": TADConfig,
    }
    own = {objective: kinds[objective](loss_chunk=chunk)}
    return own | ({"teacher_head": None, "block_length": BLOCK, "grid": "answer"} if objective == "cdlm" else {})


def objective_step(work: Work, prompt: int, device: torch.device) -> Step:
    """An objective's trainer halfway through its run, and what one micro-batch of it costs."""
    make = partial(random_model, work.config, device=device, dtype=DTYPES[work.dtype])
    student, how = make(seed=1), TRAINING[work.variant]
    teacher = make(seed=2) if how.runs_teacher else None
    own = settings_of(work.variant, work.chunk) | ({"teacher": teacher} if how.runs_teacher else {})
    inputs = batch(work.config, work.batch, work.length, prompt, device)
    arguments = TrainingArguments(
        output_dir=tempfile.gettempdir(), max_steps=2, report_to=[], use_cpu=device.type == "cpu", seed=0
    )
    trainer: StudentTrainer = how.trainer(student, arguments, **own, train_dataset=[], eval_dataset=[])
    trainer.state.max_steps, trainer.state.global_step = 2, 1
    student.train()

    def loss() -> torch.Tensor:
        trainer._totals.clear()
        return trainer.compute_loss(student, inputs)

    # What the trainer counts besides its student's three; TAD's teacher reads a longer row than the student.
    passes = 3 + trainer.teacher_passes()
    if work.variant == "tad":
        passes += inputs["teacher_input_ids"].shape[1] / work.length - 1
    models = [student] if teacher is None else [student, teacher]
    return Step(student, models, loss, lambda: int(trainer._totals["scored"]), passes)
