"""What cannot be decoded, said before a forward pass; no weights are needed to know it."""

import warnings

import torch

from cd4lm.decoding.config import DecodeConfig
from cd4lm.decoding.policies import Policy


def check_settings(model_config, policy: Policy, config: DecodeConfig) -> None:
    """Raise ValueError for settings that do not fit each other or the model."""
    policy.check(config)
    for name, token in (("mask_id", config.mask_id), *(("eos_ids", token) for token in config.eos_ids)):
        if not 0 <= token < model_config.embedding_size:
            raise ValueError(f"{name}={token} is outside the vocabulary of {model_config.embedding_size}")
    grid = config.grid_of(model_config)
    if config.infill and grid == "absolute":
        raise ValueError("infill needs blocks that start where the answer starts, these count from position 0")
    if model_config.attention == "bidirectional":
        if config.cache == "block":
            raise ValueError(
                "cache='block' needs a block-causal checkpoint and this one is bidirectional: use cache='none', or "
                "'prefix' or 'dual', which are approximate"
            )
        return
    if config.cache in ("prefix", "dual"):
        raise ValueError(f"cache={config.cache!r} is for bidirectional checkpoints: use 'block', which is exact here")
    if grid != model_config.block_grid:
        raise ValueError(f"block_grid={grid!r} is not the checkpoint's {model_config.block_grid!r}: leave it out")


def warn_of_other_blocks(model_config, config: DecodeConfig) -> None:
    """Warn where a block-causal model decodes in blocks that it was not trained with."""
    if model_config.attention != "bidirectional" and config.block_length != model_config.block_length:
        warnings.warn(
            f"block_length={config.block_length} is not the {model_config.block_length} that this checkpoint was "
            "trained with: answers may be much worse",
            stacklevel=4,
        )


def check_prompt(model_config, i: int, prompt: torch.Tensor, config: DecodeConfig) -> None:
    """Raise ValueError naming the prompt and what to do, for anything the model cannot decode."""
    if prompt.ndim != 1 or prompt.numel() == 0:
        raise ValueError(f"prompt {i} is empty or not 1-D (shape {tuple(prompt.shape)}): pass its token ids")
    if prompt.is_floating_point() or prompt.min() < 0 or prompt.max() >= model_config.embedding_size:
        raise ValueError(f"prompt {i} has entries outside the {model_config.embedding_size} token ids of the model")
    room = model_config.max_sequence_length - config.gen_length
    if prompt.numel() > room:
        raise ValueError(
            f"prompt {i} has {prompt.numel()} tokens; with gen_length={config.gen_length} the model's "
            f"{model_config.max_sequence_length} leave room for {room}: shorten it or gen_length"
        )
    if not config.infill and (prompt == config.mask_id).any():
        raise ValueError(
            f"prompt {i} contains the mask token {config.mask_id}: remove it, or have it answered with infill=True"
        )
