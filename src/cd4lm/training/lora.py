"""Low-rank adapters on the matrices inside the blocks, and their merge back into the released layout."""

import re

import torch
from peft import LoraConfig, PeftModel, get_peft_model

from cd4lm.model import DiffusionConfig, DiffusionLM
from cd4lm.model.loading import model_of
from cd4lm.settings import LoRAConfig

# Logits after the merge may differ from those before by this share of their norm: rounding of the merged weights.
MERGE_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}


def target_names(model: DiffusionLM, patterns: tuple[str, ...] | None) -> list[str]:
    """Full names of the matrices inside the blocks that the patterns match whole, without `...blocks.N.` before them.

    None matches all of them. Raises ValueError for a pattern that matches nothing, naming those there are.
    """
    blocks = next(name for name, module in model.named_modules() if module is model.blocks) + "."
    linear = {
        name: name.removeprefix(blocks).partition(".")[2]
        for name, module in model.named_modules()
        if name.startswith(blocks) and isinstance(module, torch.nn.Linear)
    }
    if patterns is None:
        return list(linear)
    for pattern in patterns:
        if not any(re.fullmatch(pattern, short) for short in linear.values()):
            known = ", ".join(dict.fromkeys(linear.values()))
            raise ValueError(f"lora.targets: {pattern!r} matches no matrix inside the blocks; there are {known}")
    return [name for name, short in linear.items() if any(re.fullmatch(pattern, short) for pattern in patterns)]


def check_targets(config: DiffusionConfig, patterns: tuple[str, ...] | None) -> None:
    """Raise the error of target_names without reading the weights."""
    with torch.device("meta"):
        target_names(model_of(config), patterns)


def add_adapters(model: DiffusionLM, config: LoRAConfig) -> PeftModel:
    """The model with adapters as its only trained weights, in float32 whatever its dtype; their update starts at 0."""
    names = target_names(model, config.targets)
    shape = {"r": config.rank, "lora_alpha": config.alpha, "lora_dropout": config.dropout}
    return get_peft_model(model, LoraConfig(**shape, target_modules=names, bias="none"))


@torch.no_grad()
def merge_adapters(model: PeftModel, batch: dict[str, torch.Tensor]) -> tuple[DiffusionLM, float]:
    """The student with its adapters added into the weights, and the relative change of its logits on a batch.

    batch: from AnswerCollator, on the device of the model, its answers masked here. Raises ArithmeticError above
    MERGE_TOLERANCE.
    """
    model.eval()
    mask_id, dtype = model.config.mask_token_id, model.get_base_model().get_output_embeddings().weight.dtype
    x = batch["input_ids"].masked_fill(batch["answer"], mask_id)
    inputs = {name: batch[name] for name in ("attention_mask", "prompt_length")}
    before = model(x, **inputs, logits_at=batch["answer"]).logits.float()  # (N, V)
    merged = model.merge_and_unload()
    after = merged(x, **inputs, logits_at=batch["answer"]).logits.float()
    change = ((after - before).norm() / before.norm()).item()
    if not change <= MERGE_TOLERANCE[dtype]:  # also false for nan
        raise ArithmeticError(
            f"merging the adapters changed the logits by {change:.1e} of their norm, more than "
            f"{MERGE_TOLERANCE[dtype]:.0e}: the student was not saved, the checkpoints are kept"
        )
    return merged, change
