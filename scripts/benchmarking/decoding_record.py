"""What the passes of all modes over one grid point amount to: times, rates, agreement, paired accuracy."""

from dataclasses import dataclass
from statistics import median

import numpy as np

from benchmarking.decoding_grid import Mode, Point
from benchmarking.decoding_run import Pass, agreement, kernel_seconds, run_once, warm_up
from cd4lm.decoding import DecodeResult
from evaluation.intervals import Estimate, mcnemar, mean_difference, mean_ratio


@dataclass(frozen=True)
class Measured:
    """A mode's record, its answers, and which of them are right (N,) of 0 and 1; None where nothing scores them."""

    record: dict
    result: DecodeResult
    right: np.ndarray | None


def measure(model, point: Point, modes: list[Mode], repeats: int, ceiling: float, bar) -> list[Measured]:
    """All modes on one grid point, interleaved within each repeat."""
    passes: dict[Mode, list[Pass]] = {mode: [] for mode in modes}
    for mode in modes:
        bar.set_postfix_str(f"{mode.name} batch {mode.batch}: warm-up")
        warm_up(model, point, mode)
    for repeat in range(repeats):
        for mode in modes:
            bar.set_postfix_str(f"{mode.name} batch {mode.batch}: repeat {repeat + 1}")
            passes[mode].append(run_once(model, point, mode, bar.update))
    measured = {}
    for mode in modes:
        record = record_of(point, mode, passes, ceiling)
        busy = kernel_seconds(model, point, mode)
        record["host_share"] = None if busy is None else max(0.0, 1 - busy / median(record["seconds"]))
        result = passes[mode][0].result
        measured[mode] = Measured(record, result, scored(point, result))
    for mode, mine in measured.items():
        if mine.right is not None:
            mine.record["accuracy"] = float(mine.right.mean())
            if (reference := reference_of(mode, modes)) is not None:
                mine.record["paired"] = paired(measured[reference], mine)
    return list(measured.values())


def reference_of(mode: Mode, modes: list[Mode]) -> Mode | None:
    """What a mode is compared with: the plain loop, else `exact` at the same batch size, where one of them was run."""
    exact = (m for m in modes if m.name == "exact" and m.batch == mode.batch)
    return next((m for m in modes if m.cache == "plain"), next(exact, None))


def record_of(point: Point, mode: Mode, passes: dict[Mode, list[Pass]], ceiling: float) -> dict:
    """Medians over the repeats of what one mode took, and its ratios to the reference within each repeat."""
    mine, result = passes[mode], passes[mode][0].result
    nfe, tokens, answers = result.nfe.sum().item(), result.lengths.sum().item(), len(point.prompts)
    seconds = median(p.seconds for p in mine)
    latencies = [latency for p in mine for latency in p.latencies]
    found = {
        "mode": mode.name,
        "batch": mode.batch,
        "exact": mode.exact,
        "prompt_length": point.prompt_length,
        "gen_length": point.config.gen_length,
        "seconds": [p.seconds for p in mine],
        "cpu_seconds": [p.cpu_seconds for p in mine],
        "nfe": nfe / answers,
        "tokens_before_eos": tokens / answers,
        "ms_per_nfe": 1000 * seconds / nfe,
        "tokens_per_second": tokens / seconds,
        "latency": {f"p{q}": float(np.percentile(latencies, q)) for q in (50, 99)},
        "peak_memory": None if mine[0].peak_memory is None else max(p.peak_memory for p in mine),
    }
    counted = passes.get(mode.eager, mine)[0].counted
    if counted is not None:
        found |= {"forwards": counted.forwards, "share_matmul": counted.flops / seconds / ceiling}
        found |= {"columns_read": counted.read / counted.forwards}
    reference = reference_of(mode, list(passes))
    return found if reference is None else found | ratios(passes[reference], mine)


def ratios(wanted: list[Pass], found: list[Pass]) -> dict:
    """Reference / mode of seconds, per repeat, and how far the answers agree."""
    pairs = list(zip(wanted, found, strict=True))
    nfe = [each[0].result.nfe.sum().item() for each in (wanted, found)]
    return {
        "agreement": agreement(found[0].result, wanted[0].result),
        "speedup": [a.seconds / b.seconds for a, b in pairs],
        "cpu_speedup": [a.cpu_seconds / b.cpu_seconds for a, b in pairs],
        "speedup_per_nfe": [(a.seconds / nfe[0]) / (b.seconds / nfe[1]) for a, b in pairs],
    }


def scored(point: Point, result: DecodeResult) -> np.ndarray | None:
    if point.score is None:
        return None
    rows = zip(result.tokens, result.lengths.tolist(), strict=True)
    return np.array([float(point.score(i, tokens[:n])) for i, (tokens, n) in enumerate(rows)])


def paired(wanted: Measured, found: Measured) -> dict:
    """Accuracy and NFE of `found` against `wanted` on the same problems, with 95 % intervals and McNemar's p."""
    nfe = [m.result.nfe.numpy(force=True).astype(float) for m in (wanted, found)]
    return {
        "accuracy_difference": interval(mean_difference(found.right, wanted.right)),
        "fewer_nfe": interval(mean_ratio(*nfe)),
        "mcnemar_p": mcnemar(wanted.right, found.right),
        "only_reference_right": int((wanted.right > found.right).sum()),
        "only_other_right": int((wanted.right < found.right).sum()),
    }


def interval(estimate: Estimate) -> dict:
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high}


def flips(measured: list[Measured]) -> None:
    """Beside each record in lower precision what differs from the same mode in float32: tokens, answers, accuracy."""

    def cell(m: Measured) -> tuple:
        return tuple(m.record[k] for k in ("mode", "batch", "prompt_length", "gen_length"))

    wide = {cell(m): m for m in measured if m.record["dtype"] == "float32"}
    for m in measured:
        exact = wide.get(cell(m))
        if m.record["dtype"] != "float32" and exact is not None:
            same = agreement(m.result, exact.result)
            m.record.update(flip_rate=1 - same["tokens"], flipped_answers=1 - same["answers"])
            if m.right is not None:
                m.record["paired_float32"] = paired(exact, m)
