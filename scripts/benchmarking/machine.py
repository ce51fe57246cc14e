"""What the machine does at best, what a forward pass costs in operations, and how much memory work takes."""

import ctypes
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch.nn import functional as F

from cd4lm.config import require
from cd4lm.io import provenance
from cd4lm.training.throughput import forward_flops, matmul_rate, wait

SECONDS = 0.3  # spent on one measurement of a ceiling, three calls at least
MOST_OUTPUTS = 2**25  # elements of a product whose rate is measured


def fastest(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of the fastest of several calls after one that warms up: what is slower is other work."""
    best, calls, begun = float("inf"), 0, time.perf_counter()
    while calls < 3 or time.perf_counter() - begun < SECONDS:
        wait(device)
        start = time.perf_counter()
        work()
        wait(device)
        calls += 1
        if calls > 1:
            best = min(best, time.perf_counter() - start)
    return best


@torch.no_grad()
def matmul_ceiling(model: torch.nn.Module, rows: Iterable[int]) -> float:
    """FLOP/s of the fastest matrix product in the model's dtype: a square, or its own weights times one of `rows` rows.

    No one shape is the fastest everywhere: without hardware for bfloat16 a large square is slower than a flat product.
    """
    head = model.get_output_embeddings().weight
    rates = [matmul_rate(head.device, head.dtype)]
    for weight in {p.shape: p for p in model.parameters() if p.ndim == 2 and p.dtype == head.dtype}.values():
        for n in {min(n, max(1, MOST_OUTPUTS // len(weight))) for n in rows}:
            x = torch.randn(n, weight.shape[1], device=head.device, dtype=head.dtype)
            rates.append(2 * n * weight.numel() / fastest(lambda x=x, w=weight: F.linear(x, w), head.device))
    return max(rates)


def cached_flops(config, rows: int, columns: int, keys: int, read: int, last_rows_only: bool) -> float:
    """Operations of a forward that computes (rows, columns) against `keys` columns each, with the head on `read` of them.

    last_rows_only: the last layer computes queries, output and MLP of those `read` columns only.
    """
    d, layers = config.d_model, config.n_layers
    whole = forward_flops(config, rows, columns, rows * read) + 4 * rows * columns * (keys - columns) * d * layers
    per_query = 4 * d * d + 6 * d * config.mlp_hidden_size + 4 * keys * d
    return whole - last_rows_only * rows * (columns - read) * per_query


class PeakMemory:
    """Context manager. before, peak: bytes held when it is entered and at most until it is left, weights included.

    Of the GPU, or resident in this process on Linux; None on other systems.
    """

    def __init__(self, device: torch.device):
        self.cuda, self.linux = device.type == "cuda", platform.libc_ver()[0] == "glibc"

    def __enter__(self) -> "PeakMemory":
        if self.cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        elif self.linux:
            ctypes.CDLL(None).malloc_trim(0)  # what is freed would still count as resident
            Path("/proc/self/clear_refs").write_text("5")  # lowers the high-water mark to what is held now
        self.before = self.held(torch.cuda.memory_allocated, "VmRSS")
        return self

    def __exit__(self, *_) -> None:
        if self.cuda:
            torch.cuda.synchronize()
        self.peak = self.held(torch.cuda.max_memory_allocated, "VmHWM")

    def held(self, of_cuda: Callable[[], int], of_process: str) -> int | None:
        if self.cuda:
            return of_cuda()
        lines = Path("/proc/self/status").read_text().splitlines() if self.linux else []
        return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(of_process)), None)


def require_writable(folder: Path) -> None:
    """Make a folder for results, or raise before the work is done."""
    folder.mkdir(parents=True, exist_ok=True)
    require(os.access(folder, os.W_OK), f"{folder} cannot be written to: choose another folder")


def about() -> dict:
    """What a reader needs to repeat a run and to judge it."""
    return {"command": " ".join(["python", *sys.argv]), "load_average": os.getloadavg()[0], **provenance()}


def markdown(lines: list[dict[str, str]]) -> str:
    """A table with a column for every key."""
    head = list(dict.fromkeys(name for line in lines for name in line))
    rows = [head, ["---"] * len(head), *([line.get(name, "") for name in head] for line in lines)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
