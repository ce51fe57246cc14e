"""What the GPU suite runs: each takes the device or the number of steps, so that a CPU runs the same code, smaller."""

import argparse
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from benchmarking import shapes
from benchmarking.shapes import random_model as random_shape
from preflighting.standin import with_shapes
from preflighting.verdict import measured_apart, predicted

from cd4lm.config import load
from cd4lm.data import tiny_task
from cd4lm.decoding import (
    ConfidenceAdaptive,
    DecodeConfig,
    DecodeResult,
    DecodingOptions,
    EntropyAdaptive,
    FixedSteps,
    MultiBlock,
    decode,
    decode_stream,
)
from cd4lm.decoding import static as static_steps
from cd4lm.model.loading import load_for_inference, tokenizer_for_inference
from cd4lm.settings import ExperimentConfig
from cd4lm.training.throughput import wait
from cd4lm.training.train import train
from evaluation.mechanism import mechanism
from tests.conftest import ROOT, random_model
from tests.training.worlds import config, steps

GPUS = torch.cuda.device_count()
CONFIG = DecodeConfig(mask_id=59, eos_ids=(57, 3), gen_length=16, block_length=8, length_bucket=64)
POLICIES = {
    "cad": ConfidenceAdaptive(threshold=0.5),
    "capped": ConfidenceAdaptive(threshold=0.9, max_tokens=4),
    "entropy": EntropyAdaptive(threshold=-1.0),
    "fixed": FixedSteps(steps=8),
    "multi_block": MultiBlock(0.5, 0.5),
}
CACHES = ("none", "plain", "prefix", "dual", "block")


def needs(gpus: int = 1, package: str | None = None, gigabytes: float = 0):
    """Skips a test, before any fixture is made, where there are fewer GPUs, no such package or less memory."""
    if gpus > GPUS:
        return pytest.mark.skip(reason=f"needs {gpus} GPU(s), {GPUS} here")
    if package is not None and find_spec(package) is None:
        return pytest.mark.skip(reason=f"needs the package {package}")
    held = torch.cuda.get_device_properties(0).total_memory / 1e9
    return pytest.mark.skipif(held < gigabytes, reason=f"needs {gigabytes:g} GB of GPU memory, {held:.0f} here")


def ragged(count: int, device: torch.device) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    sizes = torch.randint(1, 40, (count,), generator=generator).tolist()
    return [torch.randint(0, 57, (size,), generator=generator).to(device) for size in sizes]


def small(cache: str, device: torch.device):
    """A random model that decodes with this cache."""
    causal = {"attention": "block_causal", "block_length": 8} if cache == "block" else {}
    return random_model(**causal).to(device)


def captured_is_eager(policy: str, cache: str, device: torch.device) -> None:
    """Compiled steps, which a GPU captures, commit what eager ones commit, in as many forwards."""
    model, prompts, config = small(cache, device), ragged(5, device), replace(CONFIG, cache=cache)
    eager, captured = (
        DecodeResult.join(
            list(decode_stream(model, prompts, POLICIES[policy], replace(config, compile=on), batch_size=3))
        )
        for on in (False, True)
    )
    assert torch.equal(captured.tokens, eager.tokens) and torch.equal(captured.nfe, eager.nfe)
    assert captured.commits == eager.commits


def captured_stream_is_bounded(device: torch.device, rounds: int = 3) -> None:
    """A second and a third stream of the same shapes make no further buffers, graphs or memory."""
    model, held = small("none", device), []
    for _ in range(rounds):
        run = decode_stream(model, ragged(24, device), POLICIES["cad"], replace(CONFIG, compile=True), batch_size=4)
        assert sum(len(part.index) for part in run) == 24
        (runner,) = static_steps._runners[model].values()
        memory = torch.cuda.memory_reserved() if device.type == "cuda" else 0
        held.append((len(runner.places), len(runner.graphs), memory))
    assert held[0][0] >= 1 and held[1:] == held[:1] * (rounds - 1), held


def falls(folder: Path, name: str, count: int, **changes) -> None:
    """So many steps of a run, every loss and gradient finite (the trainer stops at one that is not), and it learns.

    The reconstruction loss is compared, since the total changes with the curriculum.
    """
    train(config(folder, name, max_steps=count, eval_every=count, save_every=count, **changes))
    losses = [step["reconstruction"] for step in steps(folder / name)]
    assert len(losses) == count
    assert sum(losses[-4:]) < sum(losses[:4])


def compiled_trains_alike(folder: Path) -> None:
    """torch.compile on the blocks gives the losses of eager ones."""
    for name in ("eager", "compiled"):
        train(config(folder, name, max_steps=3, compile=name == "compiled"))
    losses = [[step["loss"] for step in steps(folder / name)] for name in ("eager", "compiled")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def fits_prediction(path: str, shape: str | None, folder: Path, overrides: tuple[str, ...] = ()) -> float:
    """Predicted over measured peak of a real step on the device at hand, asserted to lie within 15 %."""
    asked = load(ExperimentConfig, ROOT / path, overrides)
    asked, _ = with_shapes(asked, shape, folder)
    ratio = predicted(asked).peak / measured_apart(asked)["peak"]
    assert 0.85 < ratio < 1.15, ratio
    return ratio


def mechanism_is_measured(device: torch.device) -> None:
    """What a study looks at of a model: its own light states name its tokens, and it is on its own path."""
    folder = ROOT / "checkpoints/teachers/w8_90"
    subject = load_for_inference(folder)[0].to(device), tokenizer_for_inference(folder)
    rows = [tiny_task.make_row("validation", index) for index in range(4)]
    one_token = DecodingOptions(steps=48, gen_length=48, block_length=8, stop_at_eos=False)
    found = mechanism(subject, subject, rows, one_token, one_token, 4, tiny_task.score)
    assert 0.5 < found["invariance"]["heavy"] <= found["invariance"]["light"] <= 1 and found["invariance"]["kl"] > 0
    assert found["path"] == {"same_tokens": 1.0, "on_path": 1.0} and len(found["calibration"]["nfe"]) == 4


def speedup(cache: str, shape: str, dtype: torch.dtype, device: torch.device, *, prompt: int, canvas: int) -> float:
    """Seconds per forward without a cache over those with it, on random weights, the faster of two runs each."""
    settings = {"attention": "block_causal", "block_length": 32} if cache == "block" else {}
    names = argparse.Namespace(shape=shape, **dict.fromkeys(shapes.DIMENSIONS))
    model_config = shapes.config_of(names, **settings)
    model = random_shape(model_config, 0, device, dtype).eval()
    prompts = list(shapes.random_tokens(model_config, 1, prompt, seed=1).to(device))
    how = DecodeConfig(mask_id=model_config.mask_token_id, gen_length=canvas, block_length=32, stop_at_eos=False)
    best = {}
    for name in ("none", cache) * 2:
        wait(device)
        begin = time.perf_counter()
        nfe = decode(model, prompts, FixedSteps(steps=canvas // 4), replace(how, cache=name)).nfe.sum().item()
        wait(device)
        best[name] = min(best.get(name, float("inf")), (time.perf_counter() - begin) / nfe)
    return best["none"] / best[cache]
