"""Timing the modes of benchmark_decoding.py on one grid point, and what their runs amount to."""

from dataclasses import replace

import torch

from scripts.benchmarking import decoding_speed as speed
from scripts.benchmarking.decoding_grid import Point
from src.decoding import DecodeResult


def warm_up(model, point: Point, mode: speed.Mode, policy, device) -> None:
    """Every shape once where shapes are compiled or kernels loaded; elsewhere one block."""
    config = speed.config_of(mode, point.config)
    if not mode.compile and device.type == "cpu":
        config = replace(config, gen_length=config.block_length)
    speed.run_once(model, point.prompts[: mode.batch], policy, config, mode.batch, lambda n: None)
    if mode.compile:
        speed.run_once(model, point.prompts, policy, config, mode.batch, lambda n: None)


def measure(model, point: Point, modes, policy, repeats: int, device, bar) -> list[tuple[dict, DecodeResult]]:
    """All modes on one grid point, interleaved; a record and the answers of each mode."""
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
        twin = next((m for m in modes if (m.cache, m.batch, m.compile) == (mode.cache, mode.batch, False)), None)
        counts[mode] = counts.get(twin)
    found = [record(model, point, mode, runs, counts[mode], peaks[mode], policy) for mode in modes]
    return [(record, runs[mode][0].result) for record, mode in zip(found, modes, strict=True)]


def quantile(values: list[float], share: float) -> float:
    return torch.tensor(values, dtype=torch.float64).quantile(share).item()


def record(model, point: Point, mode, runs, counter, peak, policy) -> dict:
    """What one mode's runs amount to."""
    mine, result = runs[mode], runs[mode][0].result
    seconds = [run.seconds for run in mine]
    middle = quantile(seconds, 0.5)
    plain = next((runs[other] for other in runs if other.cache == "plain"), None)
    plain = plain or runs.get(speed.Mode("exact", "none", False, mode.batch))
    found = {"mode": mode.name, "batch": mode.batch, "exact": mode.cache in ("none", "plain", "block"), **point.labels}
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
    if point.score is not None:
        rows = enumerate(zip(result.tokens, result.lengths.tolist(), strict=True))
        found["accuracy"] = sum(point.score(i, row[:n]) for i, (row, n) in rows) / len(point.prompts)
    return found


def body_bytes(model) -> int:
    """Bytes of the weights that every forward reads: all but the embedding table."""
    return sum(p.nbytes for p in model.parameters()) - model.get_input_embeddings().weight.nbytes


def flips(measured: list[tuple[dict, DecodeResult]]) -> None:
    """Beside each reduced-precision record: the share of tokens that differ from the same mode in float32."""
    key = ("mode", "batch", "prompt_length", "gen_length")
    exact = {tuple(r[k] for k in key): result for r, result in measured if r["dtype"] == "float32"}
    for r, result in measured:
        wide = exact.get(tuple(r[k] for k in key))
        if r["dtype"] != "float32" and wide is not None:
            r["flip_rate"] = 1 - speed.agreement(result, wide)["tokens"]
