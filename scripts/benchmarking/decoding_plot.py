"""The picture of benchmark_decoding.py: speed of every mode, and how a forward's cost grows with length and batch."""

from pathlib import Path
from statistics import median

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def name_of(record: dict) -> str:
    return f"{record['mode']}, batch {record['batch']}"


def plot(report: dict, file: Path) -> None:
    """Left: tokens per second before EOS at the first grid point. Right: ms per NFE against canvas length."""
    records = [r for r in report["records"] if r["dtype"] == report["records"][0]["dtype"]]
    grid = list(dict.fromkeys((r["prompt_length"], r["gen_length"]) for r in records))
    first = [r for r in records if (r["prompt_length"], r["gen_length"]) == grid[0]]
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 1.5 + 0.45 * len(first)), width_ratios=(3, 2))
    rates = [r["tokens_per_second"] for r in first]
    bars = left.barh(range(len(first)), rates, color=["#2b6cb0" if r["exact"] else "#dd6b20" for r in first])
    ratios = [f"  ({median(r['speedup']):.1f}x)" if "speedup" in r else "" for r in first]
    left.bar_label(bars, [f"{a:.1f}{b}" for a, b in zip(rates, ratios, strict=True)], padding=3, fontsize=8)
    left.set_yticks(range(len(first)), map(name_of, first))
    left.invert_yaxis()
    left.margins(x=0.2)
    left.set_xlabel("tokens/s before EOS (blue exact, orange approximate; in brackets: reference's s / s)", fontsize=8)
    for name in map(name_of, first):
        mine = [r for r in records if name_of(r) == name]
        places = [grid.index((r["prompt_length"], r["gen_length"])) for r in mine]
        right.plot(places, [r["ms_per_nfe"] for r in mine], "o-", label=name)
    right.set_xticks(range(len(grid)), [f"{p} + {g}" for p, g in grid])
    right.set_xlabel("prompt + canvas, tokens")
    right.set_ylabel("ms per NFE (row forward)")
    right.set_ylim(bottom=0)
    right.legend(fontsize=7)
    figure.suptitle(f"{report['device']}, {records[0]['dtype']}, commit {report['commit']}", fontsize=9)
    figure.tight_layout()
    figure.savefig(file, dpi=120)
    plt.close(figure)
