"""What benchmark_decoding.py measures: models of named shapes, the machine's ceiling, one decoding mode on one grid point."""

import ctypes
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from cd4lm.decoding import DecodeConfig, DecodeResult, decode_stream
from cd4lm.model import LLaDAConfig, LLaDAModelLM

# bench is the CPU target of docs/benchmarks.md: a small body under LLaDA's vocabulary.
SHAPES = {
    "tiny": {"d_model": 128, "n_heads": 4, "n_layers": 4, "vocab_size": 512},
    "bench": {"d_model": 512, "n_heads": 8, "n_layers": 8, "vocab_size": 126464},
    "100m": {"d_model": 768, "n_heads": 12, "n_layers": 12, "vocab_size": 32000},
    "1b": {"d_model": 2048, "n_heads": 16, "n_layers": 16, "vocab_size": 126464},
    "8b": {"d_model": 4096, "n_heads": 32, "n_layers": 32, "vocab_size": 126464, "mlp_hidden_size": 12288},
}
LEAST_VOCABULARY = 512
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Mode:
    """A way to decode: its name, settings of the engine and rows at a time.

    refresh_interval: of the approximate caches, None refreshes at the start of a block only.
    """

    name: str
    cache: str
    compile: bool
    batch: int
    refresh_interval: int | None = None


@dataclass(frozen=True)
class Ceiling:
    """What the machine does at best in one dtype: matrix product in FLOP/s, memory read and written in bytes/s."""

    matmul: float
    bandwidth: float


def random_model(shape: dict, device: torch.device, dtype: torch.dtype, gain: float, logit_std: float) -> LLaDAModelLM:
    """Random weights made on the device in their dtype.

    gain: standard deviation of a weight times sqrt(d_model); at 0.02 * sqrt(512) all masks predict the same token.
    logit_std: spread of the logits, by scaling the head; the untrained 0.5 gives every token a confidence of 1e-5, at
    which CAD commits one token per step whatever the threshold.
    """
    V = shape["vocab_size"]
    ids = {"mask_token_id": V - 128, "eos_token_id": V - 383, "pad_token_id": V - 383}
    config = LLaDAConfig(**shape, **ids, init_std=gain / shape["d_model"] ** 0.5)
    before = torch.get_default_dtype()
    torch.manual_seed(0)
    try:
        torch.set_default_dtype(dtype)
        with torch.device(device):
            model = LLaDAModelLM(config).eval()
    finally:
        torch.set_default_dtype(before)
    model.get_output_embeddings().weight.data.normal_(std=logit_std / shape["d_model"] ** 0.5)
    return model


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def fastest(function, device: torch.device, repeats: int = 5) -> float:
    """Seconds of the fastest of several calls after one that is not counted: what is slower is other work."""
    seconds = []
    for _ in range(repeats + 1):
        synchronise(device)
        start = time.perf_counter()
        function()
        synchronise(device)
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def measure_ceiling(device: torch.device, dtype: torch.dtype) -> Ceiling:
    """Rates of a large square matrix product and of a large copy."""
    size, count = (8192, 2**30) if device.type == "cuda" else (1536, 2**26)
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    source = torch.zeros(count, device=device, dtype=dtype)
    target = torch.empty_like(source)
    return Ceiling(
        matmul=2 * size**3 / fastest(lambda: a @ b, device),
        bandwidth=2 * source.nbytes / fastest(lambda: target.copy_(source), device),
    )


def flops(config: LLaDAConfig, rows: int, columns: int, keys: int, read: int, last_rows_only: bool) -> int:
    """Floating point operations of one forward: `columns` computed against `keys`, the head at `read` per row."""
    d, hidden = config.d_model, config.mlp_hidden_size
    kv = 2 * d * (d // config.n_heads * config.n_kv_heads)
    per_query = 2 * d * d + 3 * d * hidden + 2 * keys * d  # q and output, MLP, scores and weighted sum
    queries = config.n_layers * columns if not last_rows_only else (config.n_layers - 1) * columns + read
    return 2 * rows * (queries * per_query + config.n_layers * columns * kv + read * d * config.embedding_size)


class ForwardCounter:
    """Counts forwards, and the operations in them, through a hook on the model."""

    def __init__(self, model):
        self.model, self.forwards, self.rows, self.flops = model, 0, 0, 0

    def __enter__(self):
        self.handle = self.model.register_forward_pre_hook(self.count, with_kwargs=True)
        return self

    def __exit__(self, *_):
        self.handle.remove()

    def count(self, module, args, kwargs):
        rows, columns = kwargs["input_ids"].shape
        at, cache = kwargs.get("logits_at"), kwargs.get("cache")
        keys = columns if cache is None else cache.keys.shape[3] - 1
        read = columns if at is None else at.shape[1]
        self.forwards += 1
        self.rows += rows
        self.flops += flops(self.model.config, rows, columns, keys, read, at is not None)


def reset_peak_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif platform.libc_ver()[0] == "glibc":
        # Linux: give what is free back to the system, or it would count as in use, then lower the high-water mark.
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: torch.device) -> int | None:
    """Bytes at the peak since the reset, weights included: of the device, or resident in the process (Linux)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if platform.libc_ver()[0] != "glibc":
        return None
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def config_of(mode: Mode, base: DecodeConfig) -> DecodeConfig:
    """The plain loop decodes the tail after EOS, as published."""
    kept = {"cache": mode.cache, "compile": mode.compile, "refresh_interval": mode.refresh_interval}
    return replace(base, stop_at_eos=mode.cache != "plain", **kept)


@dataclass(frozen=True)
class Run:
    """One pass over the prompts: result in their order, seconds of all and of each from its joining to its end.

    cpu_seconds: of this process, which other work on the machine hardly changes.
    """

    result: DecodeResult
    seconds: float
    cpu_seconds: float
    latencies: list[float]


def run_once(model, prompts: Sequence[torch.Tensor], policy, config: DecodeConfig, batch: int, on_done) -> Run:
    """Decode all prompts, synchronised at both ends."""
    device = next(model.parameters()).device
    joined: dict[int, float] = {}
    ended: dict[int, float] = {}

    def arriving():
        for i, prompt in enumerate(prompts):
            joined[i] = time.perf_counter()
            yield prompt

    synchronise(device)
    start, cpu_start, parts = time.perf_counter(), time.process_time(), []
    for part in decode_stream(model, arriving(), policy, config, batch_size=batch):
        now = time.perf_counter()
        ended |= dict.fromkeys(part.index.tolist(), now)
        parts.append(part)
        on_done(len(part.index))
    synchronise(device)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    return Run(DecodeResult.join(parts), seconds, cpu_seconds, [ended[i] - joined[i] for i in range(len(prompts))])


def device_seconds(model, prompts, policy, config: DecodeConfig, batch: int) -> float | None:
    """Seconds of GPU kernels in one pass over the prompts; None without a GPU."""
    if next(model.parameters()).device.type != "cuda":
        return None
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        run_once(model, prompts, policy, config, batch, lambda n: None)
    return sum(event.self_device_time_total for event in profile.key_averages()) / 1e6


def agreement(found: DecodeResult, wanted: DecodeResult) -> dict:
    """Share of tokens before EOS (of the wanted answers) that are the same, and of answers that are the same whole."""
    same = total = whole = 0
    for i, length in enumerate(wanted.lengths.tolist()):
        equal = found.tokens[i, : length + 1] == wanted.tokens[i, : length + 1]  # the EOS too, where there is one
        same, total, whole = same + equal.sum().item(), total + equal.numel(), whole + equal.all().item()
    return {"tokens": same / total, "answers": whole / len(wanted.lengths)}
