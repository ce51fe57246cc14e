"""Tables and the plot of compared runs.

    python -m evaluation.report outputs/eval/gsm8k/fixed outputs/eval/gsm8k/cad_0.95 --output_path outputs/eval/gsm8k
    python -m evaluation.report RUN [RUN ...] --reference NAME --margin 0.01

Runs are folders with run.json and documents.jsonl, or folders of such folders. The reference, by default the first run, is what
the others are paired with. Writes report.md, comparison.json and frontier.png, those of several tasks in a folder each; runs
of one task under several protocols are several tasks.
"""

import itertools
import json
from collections import defaultdict
from collections.abc import Callable
from itertools import count
from pathlib import Path

from cd4lm.config import CommandParser, exit_with_message, require
from cd4lm.io import write_json, write_text
from evaluation.compare import compare, families
from evaluation.protocol import prompt_conditions
from evaluation.run import Run

Row = list[str]


def table(head: Row, rows: list[Row]) -> str:
    """A Markdown table."""
    lines = [[cell.replace("|", "\\|") for cell in line] for line in (head, *rows)]
    lines.insert(1, ["---"] * len(head))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def interval(e: dict, scale: float = 1, form: str = ".2f") -> str:
    """A value with its 95 % interval, or words where it does not exist."""
    if e["value"] is None:
        return "not reached"
    value, low, high = (format(scale * e[name], form) for name in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def percent(summary: dict) -> str:
    """An accuracy with its Wilson interval."""
    low, high = summary["accuracy_95"]
    return interval({"value": summary["accuracy"], "low": low, "high": high}, 100, ".1f")


def of_columns(columns: dict[str, Callable[[dict], str]], rows: list[dict]) -> str:
    """A Markdown table from a column's head to what a row says in it."""
    return table(list(columns), [[say(row) for say in columns.values()] for row in rows])


def run_table(compared: dict, timed: bool = True) -> str:
    """One line per run. timed: with the clock's columns, which mean something where nothing else ran beside."""
    columns = {
        "run": lambda r: r["name"],
        "accuracy, % [95 %]": percent,
        "NFE": lambda r: f"{r['nfe']:.1f}",
        "tokens before EOS": lambda r: f"{r['tokens_before_eos']:.1f}",
        "tokens per forward": lambda r: f"{r['tokens_per_forward']:.2f}",
    }
    if timed:
        columns["tokens/s"] = lambda r: f"{r['tokens_per_second']:.1f}"
        columns["latency, s"] = lambda r: f"{r['latency_mean']:.2f}"
    columns["cut off, %"] = lambda r: f"{100 * r['truncated']:.1f}"
    columns["no answer"] = lambda r: f"{r['no_answer']} of {r['responses']}"
    return of_columns(columns, [{"name": name, **r} for name, r in compared["runs"].items()])


def reference_table(compared: dict, timed: bool = True) -> str:
    """Every run paired with the reference; timed as for run_table."""
    columns = {
        f"against {compared['reference']}": lambda p: p["name"],
        "difference, points": lambda p: interval(p["accuracy_difference"], 100, "+.1f"),
        "McNemar p": lambda p: f"{p['mcnemar_p']:.2g}",
        "times fewer NFE": lambda p: interval(p["fewer_nfe"]),
    }
    if timed:
        columns["times faster"] = lambda p: interval(p["faster"])
    return of_columns(columns, [{"name": name, **p} for name, p in compared["against_reference"].items()])


def family_table(compared: dict) -> str:
    """NFE at equal accuracy and AUP of every family."""
    head = ["family", "NFE at equal accuracy [95 %]", "reached in", f"AUP (y_max {compared['y_max']:.1f})"]
    rows = []
    for name, family in compared["families"].items():
        e, area = family["nfe_at_equal_accuracy"], family["aup"]
        reached = f"{100 * e['reached']:.0f} % of resamples"
        rows.append([name, interval(e, 1, ".1f"), reached, "one run" if area is None else f"{area:.1f}"])
    return table(head, rows)


def equal_accuracy_note(compared: dict) -> str:
    target = 100 * (compared["runs"][compared["reference"]]["accuracy"] - compared["margin"])
    return (
        f"Equal accuracy is {target:.1f} %: that of {compared['reference']} less {100 * compared['margin']:g} point(s), "
        "interpolated between the runs of a family. Intervals: Wilson for accuracies, a paired bootstrap over documents for "
        "differences and ratios. They cover the choice of documents, not that of training seeds."
    )


def tables(compared: dict) -> list[str]:
    """The parts of a report that every selection of runs has, as Markdown."""
    parts = [f"Protocol: {compared['protocol']}."] if "protocol" in compared else []
    parts.append(run_table(compared))
    if compared["against_reference"]:
        parts.append(reference_table(compared))
    return [*parts, family_table(compared), equal_accuracy_note(compared)]


def plot_frontier(runs: list[Run], compared: dict, path: Path) -> None:
    """Accuracy with its interval against NFE, a line per family: a colour per model, a marker per decoder.

    Dotted: equal accuracy.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 5))
    groups = families([run for run in runs if run.about["decoder"]["cache"] != "block"])
    models = list(dict.fromkeys(group[0].about["model"]["name"] for group in groups.values()))
    of = {name: group[0].about["model"]["name"] for name, group in groups.items()}
    decoders = list(dict.fromkeys(name.removeprefix(f"{of[name]} + ") for name in groups))
    colours = {model: plt.get_cmap("tab10" if len(models) <= 10 else "tab20")(i) for i, model in enumerate(models)}
    styles = dict(zip(decoders, itertools.cycle(("s--", "o-", "^:", "D:", "v-.", "P:", "X:")), strict=False))
    for name, group in groups.items():
        points = sorted((compared["runs"][run.name] for run in group), key=lambda r: r["nfe"])
        accuracy = [100 * r["accuracy"] for r in points]
        below = [max(0.0, a - 100 * r["accuracy_95"][0]) for a, r in zip(accuracy, points, strict=True)]
        above = [max(0.0, 100 * r["accuracy_95"][1] - a) for a, r in zip(accuracy, points, strict=True)]
        how = {"fmt": styles[name.removeprefix(f"{of[name]} + ")], "color": colours[of[name]], "markersize": 5}
        nfe = [r["nfe"] for r in points]
        axes.errorbar(nfe, accuracy, yerr=[below, above], capsize=2, elinewidth=0.6, **how)
    for model in models:
        axes.plot([], [], "-", color=colours[model], lw=3, label=model)
    for decoder in decoders:
        axes.plot([], [], styles[decoder], color="gray", label=decoder)
    reference = compared["runs"][compared["reference"]]["accuracy"]
    axes.axhline(100 * (reference - compared["margin"]), color="black", lw=0.7, ls=":")
    axes.set_xscale("log")
    axes.set_xticks(*spaced_ticks([r["nfe"] for r in compared["runs"].values()]))
    axes.minorticks_off()
    axes.set_xlabel("forward passes per answer (NFE)")
    axes.set_ylabel("accuracy, % with 95 % interval")
    axes.set_title(f"{compared['task']}, {compared['documents']} documents; dotted: equal accuracy", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def spaced_ticks(values: list[float]) -> tuple[list[float], list[str]]:
    """Ticks at the values themselves, leaving out those whose label would touch the one before; their labels."""
    ticks: list[float] = []
    apart = max(1.05, (max(values) / min(values)) ** (1 / 16))
    for value in sorted(values):
        if not ticks or value > apart * ticks[-1]:
            ticks.append(value)
    return ticks, [f"{tick:.1f}" for tick in ticks]


def report(runs: list[Run], folder: Path, *, reference: str | None = None, margin: float = 0.01) -> str:
    """Compare runs of one task and write comparison.json, report.md and frontier.png; returns the tables."""
    compared = compare(runs, reference, margin)
    write_json(folder / "comparison.json", compared)
    plot_frontier(runs, compared, folder / "frontier.png")
    title = f"# {compared['task']}, {compared['documents']} documents"
    text = "\n\n".join([title, *tables(compared), "![accuracy against NFE](frontier.png)"]) + "\n"
    write_text(folder / "report.md", text)
    return text


def read_runs(paths: list[Path]) -> list[Run]:
    """Runs; a folder without run.json stands for all runs below it. Raises ValueError where there are none."""
    found = []
    for path in paths:
        require(path.is_dir(), f"{path} is not a folder: pass the folders that evaluations wrote")
        inside = [path] if (path / "run.json").is_file() else sorted(f.parent for f in path.rglob("run.json"))
        require(bool(inside), f"{path} holds no finished run (run.json): finish that evaluation first")
        found += [Run.read(folder) for folder in inside]
    return found


def by_task(runs: list[Run]) -> dict[str, list[Run]]:
    """Runs that can be compared: of one task and, where several protocols asked for it, of one of them each."""
    groups: dict[str, dict[str, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        asked = json.dumps(prompt_conditions(run.protocol), sort_keys=True)
        groups[run.task][asked].append(run)
    found = {}
    for task, kinds in groups.items():
        for same in kinds.values():
            name = "unrecorded" if same[0].protocol is None else same[0].protocol["name"]
            label = first = task if len(kinds) == 1 else f"{task}_{name}"
            for number in count(2):
                if label not in found:
                    break
                label = f"{first}_{number}"
            found[label] = same
    return found


def main():
    parser = CommandParser(__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of finished runs")
    parser.add_argument("--reference", metavar="NAME", help="the run to compare with (default: the first)")
    parser.add_argument("--margin", type=float, default=0.01, help="loss of accuracy that counts as equal (0.01)")
    parser.add_argument("--output_path", type=Path, help="where to write (default: print the tables only)")
    arguments = parser.parse_args()
    require(0 <= arguments.margin < 1, f"--margin {arguments.margin} must lie in [0, 1)")
    tasks = by_task(read_runs(arguments.runs))
    for task, runs in tasks.items():
        if arguments.output_path is None:
            print("\n\n".join(tables(compare(runs, arguments.reference, arguments.margin))))
            continue
        folder = arguments.output_path / task if len(tasks) > 1 else arguments.output_path
        print(report(runs, folder, reference=arguments.reference, margin=arguments.margin))
        print(f"wrote {folder}/report.md, comparison.json and frontier.png")


if __name__ == "__main__":
    exit_with_message(main)
