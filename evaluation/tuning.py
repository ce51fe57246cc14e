"""Search for the loosest value of a policy's main parameter that is still right often enough."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cd4lm.config import require
from cd4lm.data.rows import check_texts, read_jsonl
from cd4lm.decoding import DecodeConfig
from evaluation.intervals import mcnemar
from evaluation.run import Run

# What is tried of each policy, the loosest (fastest) value first; of `fixed`, see ladder().
LADDERS = {
    "cad": (0.3, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999),
    "entropy": (-2.0, -1.5, -1.0, -0.7, -0.5, -0.3, -0.2, -0.1, -0.05, -0.02, -0.01, -0.001),
    "factor": (4.0, 3.0, 2.5, 2.0, 1.5, 1.2, 1.0, 0.8, 0.6, 0.4, 0.2, 0.1, 0.05, 0.01),
    "entropy_bounded": (3.0, 2.0, 1.5, 1.0, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01, 0.001),
    "budget": (8, 6, 4, 3, 2, 1),
    "multi_block": (3.0, 2.0, 1.5, 1.0, 0.7, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.01),
}


@dataclass(frozen=True)
class Trial:
    """One value that was tried, the run it gave with its summary (see compare.py), and whether that is enough."""

    value: float
    run: Run | None
    summary: dict
    enough: bool

    def record(self, baseline: "Trial | None") -> dict:
        """For the JSON file: the summary, and the paired p-value (McNemar) against one token per step if measured."""
        record = {"value": self.value, "enough": self.enough, **self.summary}
        if baseline is not None:
            record["p_against_baseline"] = mcnemar(baseline.run.right > 0, self.run.right > 0)
        return record


def ladder(policy: str, config: DecodeConfig, values: str | None) -> tuple[float, ...]:
    """The values to try of a policy, the loosest first: those of the command line in its order, else ours."""
    if values is not None:
        kind = int if policy in ("fixed", "budget") else float
        try:
            return tuple(kind(value) for value in values.split(","))
        except ValueError:
            raise ValueError(f"--values {values!r} is not a list like 0.8,0.9,0.95") from None
    if policy == "fixed":
        per_block = [k for k in range(1, config.block_length + 1) if config.block_length % k == 0]
        return tuple(config.blocks * k for k in per_block)
    return LADDERS[policy]


def bisect(values: Sequence[float], attempt: Callable[[float], Trial]) -> list[Trial]:
    """The len(values).bit_length() trials at most that find the loosest value that is enough, if each stricter one is."""
    low, high, trials = 0, len(values), []
    while low < high:
        middle = (low + high) // 2
        trials.append(attempt(values[middle]))
        low, high = (low, middle) if trials[-1].enough else (middle + 1, high)
    return trials


def grid(values: Sequence[float], attempt: Callable[[float], Trial]) -> list[Trial]:
    """A trial of every value."""
    return [attempt(value) for value in values]


def best(trials: Sequence[Trial]) -> Trial | None:
    """Of the trials that are enough the one with the fewest forward passes; None where no trial is."""
    return min((t for t in trials if t.enough), key=lambda t: t.summary["nfe"], default=None)


def read_problems(data: Path, limit: int | None, allow_test: bool) -> tuple[Path, list[dict]]:
    """The file of problems and its rows: a prepared folder's validation.jsonl, or a .jsonl file; no test split."""
    file = data / "validation.jsonl" if data.is_dir() else data
    require(file.is_file(), f"{file} does not exist: pass a folder that scripts/prepare_data.py made")
    names = {file.name.lower(), file.resolve().name.lower()}
    is_test = any(re.search(r"(^|[^a-z])test([^a-z]|$)", name) for name in names)
    require(
        allow_test or not is_test,
        f"{file} is a test split, and what is chosen on it cannot be reported on it: use validation data",
    )
    rows = read_jsonl(file)[:limit]
    require(bool(rows), f"{file} holds no problems")
    check_texts(rows, ("question", "answer"), file)
    return file, rows
