"""What --shape means in both benchmarks: LLaDA models of named sizes with random weights."""

import argparse

import torch

from cd4lm.config import require
from cd4lm.model import LLaDAConfig, LLaDAModelLM

DIMENSIONS = ("d_model", "n_layers", "n_heads", "mlp_hidden_size", "vocab_size")
SHAPES = {
    "tiny": (128, 4, 4, 512, 512),
    "100m": (512, 8, 8, 1536, 126464),
    "1b": (2048, 16, 16, 6144, 126464),
    "8b": (4096, 32, 32, 12288, 126464),
}
SPECIAL = 384  # the last ids of LLaDA's vocabulary are special tokens
LEAST_VOCABULARY = 512
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def add_dimension_options(parser: argparse.ArgumentParser) -> None:
    for name in DIMENSIONS:
        parser.add_argument(f"--{name}", type=int, help="in place of the shape's")


def config_of(arguments: argparse.Namespace, **settings) -> LLaDAConfig:
    """The model that --shape and its dimensions name. Raises ValueError for dimensions that make no model."""
    shape = dict(zip(DIMENSIONS, SHAPES[arguments.shape], strict=True))
    shape |= {name: vars(arguments)[name] for name in DIMENSIONS if vars(arguments)[name] is not None}
    for name, value in shape.items():
        require(value >= 1, f"--{name}={value} must be at least 1")
    V = shape["vocab_size"]
    require(
        V >= LEAST_VOCABULARY, f"--vocab_size={V} must be at least {LEAST_VOCABULARY}: the last {SPECIAL} are special"
    )
    return LLaDAConfig(**shape, mask_token_id=V - 128, eos_token_id=V - 383, pad_token_id=V - 383, **settings)


def random_tokens(config: LLaDAConfig, rows: int, length: int, seed: int) -> torch.Tensor:
    """(rows, length) ids, none of them special in a vocabulary of LLaDA's; a small one gives the first id."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, max(1, config.vocab_size - SPECIAL), (rows, length), generator=generator)


def random_model(
    config: LLaDAConfig, seed: int, device: torch.device, dtype: torch.dtype, logit_std: float | None = None
) -> LLaDAModelLM:
    """Random weights, made on the device in their dtype.

    logit_std: standard deviation of the logits, by scaling the head. The untrained 0.5 gives every token a confidence of
    1e-5, at which CAD commits one token per step whatever the threshold.
    """
    before = torch.get_default_dtype()
    torch.manual_seed(seed)
    try:
        torch.set_default_dtype(dtype)
        with torch.device(device):
            model = LLaDAModelLM(config)
    finally:
        torch.set_default_dtype(before)
    if logit_std is not None:
        model.get_output_embeddings().weight.data.normal_(std=logit_std / config.d_model**0.5)
    return model
