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
    records = report["records"]
    keys = ("dtype", "prompt_length", "gen_length")
    first = [r for r in records if all(r[k] == records[0][k] for k in keys)]
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 1.5 + 0.45 * len(first)), width_ratios=(3, 2))
    rates = [r["tokens_per_second"] for r in first]
    bars = left.barh(range(len(first)), rates, color=["#2b6cb0" if r["exact"] else "#dd6b20" for r in first])
    labels = [
        f"{rate:.1f}" + (f"  ({median(r['speedup']):.1f}x)" if "speedup" in r else "")
        for rate, r in zip(rates, first, strict=True)
    ]
    left.bar_label(bars, labels, padding=3, fontsize=8)
    left.set_yticks(range(len(first)), [name_of(r) for r in first])
    left.invert_yaxis()
    left.margins(x=0.2)
    left.set_xlabel(
        "tokens/s before EOS (blue exact, orange approximate; in brackets: seconds of the plain loop / seconds)"
    )
    left.xaxis.label.set_fontsize(8)
    grid = sorted({(r["prompt_length"], r["gen_length"]) for r in records}, key=str)
    for name in dict.fromkeys(map(name_of, first)):
        mine = [r for r in records if name_of(r) == name and r["dtype"] == records[0]["dtype"]]
        right.plot(
            [grid.index((r["prompt_length"], r["gen_length"])) for r in mine],
            [r["ms_per_nfe"] for r in mine],
            "o-",
            label=name,
        )
    right.set_xticks(range(len(grid)), [f"{p} + {g}" for p, g in grid])
    right.set_xlabel("prompt + canvas, tokens")
    right.set_ylabel("ms per NFE (row forward)")
    right.set_ylim(bottom=0)
    right.legend(fontsize=7)
    figure.suptitle(
        f"{report['machine']['device']}, {records[0]['dtype']}, commit {report['machine']['commit']}", fontsize=9
    )
    figure.tight_layout()
    figure.savefig(file, dpi=120)
    plt.close(figure)
