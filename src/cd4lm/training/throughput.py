"""What a step costs: operations, the rate at which the device multiplies matrices, memory."""

import time

import psutil
import torch

from cd4lm.model import DiffusionConfig


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations per second of square matrix products on one device, the best of a few, in ~0.1 s."""
    size, repeats = (8192, 4) if device.type == "cuda" else (512, 4)
    a = torch.randn(size, size, device=device, dtype=dtype)
    best = 0.0
    for _ in range(4):  # the first one also warms up
        wait(device)
        start = time.perf_counter()
        for _ in range(repeats):
            a @ a
        wait(device)
        best = max(best, repeats * 2 * size**3 / (time.perf_counter() - start))
    return best


def wait(device: torch.device) -> None:
    """Return when the device has finished what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def forward_flops(config: DiffusionConfig, rows: int, length: int, head_rows: float) -> float:
    """Operations of one forward pass over (rows, length) tokens with the head on head_rows of them.

    Two per weight and token, and 4 L d per token and layer for the products of bidirectional attention.
    """
    d, kv = config.d_model, config.d_model // config.n_heads * config.n_kv_heads
    block = 2 * d * d + 2 * d * kv + 3 * d * config.mlp_hidden_size
    body = rows * length * config.n_layers * (2 * block + 4 * length * d)
    return body + 2 * head_rows * d * config.embedding_size


def memory_gb(device: torch.device) -> float:
    """Peak memory of this process on a GPU, resident memory on a CPU, in 1e9 bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return psutil.Process().memory_info().rss / 1e9
