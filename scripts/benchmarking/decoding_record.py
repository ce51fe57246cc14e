"""Timing the modes of benchmark_decoding.py on one grid point, and what their runs amount to."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from compare_results import Results, compare

from benchmarking import decoding_speed as speed
from benchmarking.decoding_grid import Point
from cd4lm.decoding import DecodeResult
from evaluation.frontier import resample_weights

RESAMPLES, SEED = 2000, 0


@dataclass(frozen=True)
class Measured:
    """A mode's record, its answers, and which of them are right (N,); None where nothing scores them."""

    record: dict
    result: DecodeResult
    right: np.ndarray | None


def scored(point: Point, result: DecodeResult) -> np.ndarray | None:
    if point.score is None:
        return None
    rows = zip(result.tokens, result.lengths.tolist(), strict=True)
    return np.array([float(point.score(i, tokens[:n])) for i, (tokens, n) in enumerate(rows)])


def paired(wanted: Measured, found: Measured) -> dict:
    """Accuracy and NFE of `found` against `wanted` on the same problems, with bootstrap intervals and McNemar's p."""
    both = [
        Results("", m.right, {"nfe": m.result.nfe.numpy(force=True).astype(float), "seconds": None})
        for m in (wanted, found)
    ]
    compared = compare(*both, resample_weights(len(wanted.right), RESAMPLES, SEED))
    return {name: value for name, value in compared.items() if name != "faster"}


def warm_up(model, point: Point, mode: speed.Mode, policy, device) -> None:
    """Every shape once where shapes are compiled or kernels loaded; elsewhere one block."""
    config = speed.config_of(mode, point.config)
    if not mode.compile and device.type == "cpu":
        config = replace(config, gen_length=config.block_length)
    speed.run_once(model, point.prompts[: mode.batch], policy, config, mode.batch, lambda n: None)
    if mode.compile:
        speed.run_once(model, point.prompts, policy, config, mode.batch, lambda n: None)


def measure(model, point: Point, modes, policy, repeats: int, device, bar) -> list[Measured]:
    """All modes on one grid point, interleaved."""
    runs: dict[speed.Mode, list[speed.Run]] = {mode: [] for mode in modes}
    counts, peaks = {}, {}
    for mode in modes:
        bar.set_postfix_str(f"{mode.name} batch {mode.batch}: warm-up")
        warm_up(model, point, mode, policy, device)
    for repeat in range(repeats):
        for mode in modes:
            bar.set_postfix_str(f"{mode.name} batch {mode.batch}: repeat {repeat + 1}")
            arguments = (model, point.prompts, policy, speed.config_of(mode, point.config), mode.batch, bar.update)
            speed.reset_peak_memory(device)
            if mode.compile:  # a hook would be compiled too
                runs[mode].append(speed.run_once(*arguments))
            else:
                with speed.ForwardCounter(model) as counts[mode]:
                    runs[mode].append(speed.run_once(*arguments))
            peaks[mode] = max(peaks.get(mode, 0), speed.peak_memory(device) or 0) or None
    for mode in modes:  # a compiled mode does the arithmetic of its eager twin
        counts[mode] = counts.get(replace(mode, name=mode.name.replace("+compile", ""), compile=False))
    records = {mode: record(model, point, mode, runs, counts[mode], peaks[mode], policy) for mode in modes}
    measured = {
        mode: Measured(r, runs[mode][0].result, scored(point, runs[mode][0].result)) for mode, r in records.items()
    }
    for mode, mine in measured.items():
        if mine.right is not None:
            mine.record["accuracy"] = mine.right.mean()
            if (reference := reference_of(mode, modes)) is not None:
                mine.record["paired"] = paired(measured[reference], mine)
    return list(measured.values())


def reference_of(mode: speed.Mode, modes) -> speed.Mode | None:
    """What a mode is compared with: the plain loop, else `exact` at the same batch size, where one of them was run."""
    exact = speed.Mode("exact", "none", False, mode.batch)
    return next((m for m in modes if m.cache == "plain"), exact if exact in modes else None)


def quantile(values: list[float], share: float) -> float:
    return torch.tensor(values, dtype=torch.float64).quantile(share).item()


def record(model, point: Point, mode, runs, counter, peak, policy) -> dict:
    """What one mode's runs amount to."""
    mine, result = runs[mode], runs[mode][0].result
    seconds = [run.seconds for run in mine]
    middle = quantile(seconds, 0.5)
    plain = runs.get(reference_of(mode, runs))
    exact = mode.cache in ("none", "plain", "block") or mode.refresh_interval == 1
    found = {"mode": mode.name, "batch": mode.batch, "exact": exact, **point.labels}
    nfe, tokens = result.nfe.sum().item(), result.lengths.sum().item()
    found |= {"seconds": seconds, "cpu_seconds": [run.cpu_seconds for run in mine]}
    found |= {"nfe": nfe / len(point.prompts), "tokens_before_eos": tokens / len(point.prompts)}
    found |= {"ms_per_nfe": 1000 * middle / nfe, "tokens_per_second": tokens / middle, "peak_memory": peak}
    latencies = [latency for run in mine for latency in run.latencies]
    found["latency"] = {f"p{int(100 * q)}": quantile(latencies, q) for q in (0.5, 0.9, 0.99)}
    if counter is not None:
        found |= {"forwards": counter.forwards, "flop_per_second": counter.flops / middle}
        found["weight_bytes_per_second"] = counter.forwards * body_bytes(model) / middle
    busy = speed.device_seconds(model, point.prompts, policy, speed.config_of(mode, point.config), mode.batch)
    found["host_share"] = None if busy is None else max(0.0, 1 - busy / middle)
    if plain is not None:
        found["agreement"] = speed.agreement(result, plain[0].result)
        found["speedup"] = [a.seconds / b.seconds for a, b in zip(plain, mine, strict=True)]
        found["cpu_speedup"] = [a.cpu_seconds / b.cpu_seconds for a, b in zip(plain, mine, strict=True)]
        of_plain = [run.seconds / run.result.nfe.sum().item() for run in plain]
        found["speedup_per_nfe"] = [a / (b.seconds / nfe) for a, b in zip(of_plain, mine, strict=True)]
    return found


def body_bytes(model) -> int:
    """Bytes of the weights that every forward reads: all but the embedding table."""
    return sum(p.nbytes for p in model.parameters()) - model.get_input_embeddings().weight.nbytes


def flips(measured: list[Measured]) -> None:
    """Beside each reduced-precision record what differs from the same mode in float32: tokens, answers, accuracy."""
    key = ("mode", "batch", "prompt_length", "gen_length")
    wide = {tuple(m.record[k] for k in key): m for m in measured if m.record["dtype"] == "float32"}
    for m in measured:
        exact = wide.get(tuple(m.record[k] for k in key))
        if m.record["dtype"] != "float32" and exact is not None:
            same = speed.agreement(m.result, exact.result)
            m.record.update(flip_rate=1 - same["tokens"], flipped_answers=1 - same["answers"])
            if m.right is not None:
                m.record["paired_float32"] = paired(exact, m)
