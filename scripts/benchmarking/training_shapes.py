"""Model shapes by name, what a training step of one computes, and building one with random weights."""

import argparse
from dataclasses import dataclass, fields

import torch

from cd4lm.model import LLaDAConfig, LLaDAModelLM


@dataclass(frozen=True)
class Shape:
    """The size of a LLaDA model, in the words of its config."""

    d_model: int
    n_layers: int
    n_heads: int
    mlp_hidden_size: int
    vocab_size: int = 126464

    @property
    def block_weights(self) -> int:
        """Weights of the matrices inside the blocks."""
        return self.n_layers * self.d_model * (4 * self.d_model + 3 * self.mlp_hidden_size)

    @property
    def head_weights(self) -> int:
        return self.d_model * self.vocab_size

    @property
    def weights(self) -> int:
        """All weights: blocks, embedding, head and norms."""
        return self.block_weights + 2 * self.head_weights + (2 * self.n_layers + 1) * self.d_model


SHAPES = {
    "tiny": Shape(144, 4, 4, 384, 256),
    "100m": Shape(512, 8, 8, 1536),
    "1b": Shape(2048, 16, 16, 6144),
    "8b": Shape(4096, 32, 32, 12288),
}


def add_shape_options(parser: argparse.ArgumentParser, default: str) -> None:
    """--shape, and an option for each of its dimensions."""
    parser.add_argument("--shape", choices=SHAPES, default=default)
    for field in fields(Shape):
        parser.add_argument(f"--{field.name}", type=int, help="in place of the shape's")


def shape_of(arguments: argparse.Namespace) -> Shape:
    """The shape a command line asks for. Raises ValueError for a dimension below 1."""
    given = {field.name: vars(arguments)[field.name] for field in fields(Shape)}
    for name, value in given.items():
        if value is not None and value < 1:
            raise ValueError(f"--{name}={value} must be at least 1")
    return Shape(
        **{name: vars(SHAPES[arguments.shape])[name] if value is None else value for name, value in given.items()}
    )


def random_model(shape: Shape, seed: int, device: torch.device, dtype: torch.dtype) -> LLaDAModelLM:
    """A model of that shape with random weights, made where it will live."""
    ids = {"mask_token_id": shape.vocab_size - 1, "eos_token_id": 0, "pad_token_id": 0}
    torch.manual_seed(seed)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            return LLaDAModelLM(LLaDAConfig(**vars(shape), **ids))
    finally:
        torch.set_default_dtype(before)


def step_flops(shape: Shape, batch: int, length: int, scored: int, kl: int, *, frozen: bool) -> float:
    """Floating-point operations that one DSCD step cannot do without, recomputation not counted.

    Student forward, gradient of activations and, unless frozen (LoRA, whose own matrices are left out), of weights;
    teacher forward; attention; the heads on `scored` and `kl` rows only. 2 per multiplication and addition.
    """
    tokens = batch * length
    passes = 2 if frozen else 3  # forward, activations, weights
    blocks = 2 * shape.block_weights * tokens * (passes + 1)
    attention = 4 * length * shape.d_model * tokens * shape.n_layers * (3 + 1)  # its backward is twice its forward
    return blocks + attention + 2 * shape.head_weights * (scored * passes + kl)
