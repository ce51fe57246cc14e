"""The log of a run: a JSON line per optimizer step, TensorBoard where it is installed, and what a step cost."""

import importlib.util
import json
import os
import time
from pathlib import Path

import psutil
import torch

from cd4lm.io import write_text
from cd4lm.model import DiffusionConfig

NAME = "training_log.jsonl"


class RunLog:
    """Appends to <folder>/training_log.jsonl; a run that resumes at `step` first drops the lines after it."""

    def __init__(self, folder: Path, step: int):
        self.path = folder / NAME
        kept = [line for line in complete_lines(self.path) if json.loads(line)["step"] <= step] if step else []
        write_text(self.path, "".join(kept))
        self.board = tensorboard(folder / "tensorboard", step)

    def write(self, step: int, values: dict[str, float]) -> None:
        """One event of the run; a line is whole or absent, so that a kill leaves a readable file."""
        line = json.dumps({"step": step, **values}) + "\n"
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(file, line.encode())
        finally:
            os.close(file)
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(name, value, step)

    def close(self) -> None:
        if self.board is not None:
            self.board.close()


def complete_lines(path: Path) -> list[str]:
    """The lines of a log, less a last one that was cut short; none if there is no log."""
    if not path.is_file():
        return []
    return [line for line in path.read_text().splitlines(keepends=True) if line.endswith("}\n")]


def tensorboard(folder: Path, step: int):
    """A TensorBoard writer that hides what an interrupted run wrote after `step`, or None without the package."""
    if importlib.util.find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=step + 1 if step else None)


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
