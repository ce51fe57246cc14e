"""The paper's table beside ours: for every published figure our interval, and what teacher + CAD, the control, says.

    python scripts/paper_table.py outputs/paper [--threshold 0.95]

Reads the runs of scripts/reproduce_paper.sh under FOLDER/eval/<benchmark>; writes FOLDER/table.md and FOLDER/table.json.
Accuracies have Wilson's 95 % interval; gains, forward passes and wall clock a bootstrap interval over the same documents.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

from compare_results import compare, interval_of_accuracy, paired_samples, results_of, spread, summarise

from cd4lm.config import exit_with_message, require
from cd4lm.io import write_text as write_whole
from evaluation.frontier import resample_weights
from evaluation.metrics.rescore import Scoring


@dataclass(frozen=True)
class Published:
    """A row of CD4LM's table: documents, accuracies in percent, and how many times less wall clock CD4LM takes."""

    title: str
    documents: int
    llada: float
    cd4lm: float
    speedup: float


PAPER = {
    "gsm8k": Published("GSM8K", 1319, 77.4, 77.6, 5.18),
    "math500": Published("MATH500", 500, 37.3, 38.6, 5.33),
    "humaneval": Published("HumanEval", 164, 38.7, 40.9, 3.30),
    "mbpp": Published("MBPP", 500, 36.9, 39.0, 2.96),
}
# The folders of one benchmark, by what they hold; {} is CAD's threshold. `full` decodes the tail after EOS, as published.
RUNS = {
    "student + CAD": "cad_{}",
    "student + CAD, full": "cad_full_{}",
    "teacher + CAD": "teacher_cad_{}",
    "teacher, fixed": "teacher_fixed_stop",
    "teacher, fixed, full": "teacher_fixed",
}
RESAMPLES, SEED = 2000, 0


def figure(name: str, published: float | None, interval: dict, form: str, scale: float = 1, told: bool = True) -> dict:
    """One figure with its interval; contains: whether the published one lies in it, None where that cannot be said."""
    value, low, high = (scale * interval[bound] for bound in ("value", "low", "high"))
    contains = low <= published <= high if told and published is not None else None
    found = {"figure": name, "published": published, "value": value, "low": low, "high": high}
    return found | {"contains": contains, "form": form}


def benchmark(task: str, folder: Path, threshold: str) -> dict:
    """All runs of one benchmark, the published figures beside ours, and the control. Raises ValueError for a missing run."""
    folders = {name: folder / form.format(threshold) for name, form in RUNS.items()}
    for path in folders.values():
        require((path / "results.json").is_file(), f"{path}/results.json does not exist: finish that evaluation first")
    samples = paired_samples(folders)[task]
    results = {name: results_of(name, task, samples[name], Scoring()) for name in RUNS}
    weights = resample_weights(len(results["teacher + CAD"].right), RESAMPLES, SEED)

    def paired(reference: str, other: str) -> dict:
        return compare(results[reference], results[other], weights)

    paper, runs = PAPER[task], {name: summarise(result) for name, result in results.items()}
    gain, control = paired("teacher, fixed, full", "student + CAD"), paired("teacher + CAD", "student + CAD")
    figures = [
        figure("LLaDA, %", paper.llada, interval_of_accuracy(runs["teacher, fixed, full"]), ".1f", 100),
        figure("CD4LM, %", paper.cd4lm, interval_of_accuracy(runs["student + CAD"]), ".1f", 100),
        figure(
            "gain, points", paper.cd4lm - paper.llada, gain["accuracy_difference"], "+.1f", 100, told=differ(gain) > 0
        ),
        figure(
            "speed-up, whole canvas",
            paper.speedup,
            paired("teacher, fixed, full", "student + CAD, full")["faster"],
            ".2f",
        ),
        figure("speed-up, stopping at EOS", None, paired("teacher, fixed", "student + CAD")["faster"], ".2f"),
        figure("speed-up of the teacher alone", None, paired("teacher, fixed", "teacher + CAD")["faster"], ".2f"),
    ]
    about = {json.dumps(setting(path), sort_keys=True) for path in folders.values()}
    return {
        "documents": runs["teacher + CAD"]["items"],
        "of": paper.documents,
        "figures": figures,
        "control": control | {"says": verdict(control)},
        "runs": runs,
        "settings": [json.loads(text) for text in sorted(about)],
    }


def differ(compared: dict) -> int:
    """Documents that only one of two runs has right; with none of them a bootstrap interval has no width."""
    return compared["only_reference_right"] + compared["only_other_right"]


def setting(folder: Path) -> dict:
    """Where and how a run was made, as far as its clock depends on it."""
    manifest = json.loads((folder / "results.json").read_text())["manifest"]
    names = ("commit", "device", "dtype", "processes")
    return {name: manifest[name] for name in names} | {"batch_size": manifest["settings"]["batch_size"]}


def verdict(control: dict) -> str:
    """What the paired comparison of student + CAD with teacher + CAD allows to say."""
    points, passes = control["accuracy_difference"], control["fewer_nfe"]
    if points["low"] > 0 or points["high"] < 0:
        accuracy = f"the student is right {'more' if points['low'] > 0 else 'less'} often"
    else:
        accuracy = "no difference in accuracy can be told"
    if passes["low"] > 1 or passes["high"] < 1:
        return f"{accuracy}; it needs {'fewer' if passes['low'] > 1 else 'more'} forward passes"
    return f"{accuracy}, nor one in forward passes"


def answer(f: dict) -> str:
    if f["published"] is None:
        return ""
    return "cannot be said: no document differs" if f["contains"] is None else ("yes" if f["contains"] else "no")


def markdown(found: dict[str, dict | None]) -> str:
    """Three tables: published against ours, the control, all runs; and what limits them."""
    lines = ["# CD4LM's table, published and reproduced", ""]
    lines += [
        "| benchmark | figure | published | ours [95 %] | contains the published figure |",
        "|---|---|---|---|---|",
    ]
    for task, paper in PAPER.items():
        if found[task] is None:
            gain = f"{paper.cd4lm - paper.llada:+.1f}"
            lines.append(
                f"| {paper.title} | LLaDA, CD4LM, gain, speed-up | {paper.llada}, {paper.cd4lm}, {gain}, "
                f"{paper.speedup:.2f} | not run | |"
            )
            continue
        for f in found[task]["figures"]:
            published = "" if f["published"] is None else format(f["published"], f["form"])
            lines.append(f"| {paper.title} | {f['figure']} | {published} | {spread(f, 1, f['form'])} | {answer(f)} |")
    done = {task: result for task, result in found.items() if result is not None}
    lines += ["", "## The control: student + CAD against teacher + CAD", ""]
    lines += [
        "| benchmark | difference, points | McNemar p | x fewer NFE | x faster | says |",
        "|---|---|---|---|---|---|",
    ]
    for task, result in done.items():
        c = result["control"]
        cells = (spread(c["accuracy_difference"], 100, "+.1f"), f"{c['mcnemar_p']:.3g}")
        cells += (spread(c["fewer_nfe"], 1, ".2f"), spread(c["faster"], 1, ".2f"), c["says"])
        lines.append(f"| {PAPER[task].title} | {' | '.join(cells)} |")
    lines += ["", "## Runs", ""]
    lines += [
        "| benchmark | run | accuracy, % [95 %] | NFE | tokens per forward | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for task, result in done.items():
        for name, run in result["runs"].items():
            accuracy = spread(interval_of_accuracy(run), 100, ".1f")
            cost = f"{run['nfe']:.1f} | {run['tokens_per_forward']:.2f} | {run['seconds']:.3g}"
            lines.append(f"| {PAPER[task].title} | {name} | {accuracy} | {cost} |")
    return "\n".join([*lines, "", *notes(done)]) + "\n"


def notes(done: dict[str, dict]) -> list[str]:
    """What a reader must know before quoting a number."""
    found = [
        "Published figures are single runs in another harness, without intervals. That ours contains one shows no more "
        "than that the two do not contradict each other. `full` decodes the tail after EOS, as published; tokens are "
        "counted before EOS.",
    ]
    for task, result in done.items():
        title, settings = PAPER[task].title, result["settings"]
        form = "{device}, {dtype}, batch {batch_size}, {processes} process(es), commit {commit}"
        made = "; ".join(form.format(**setting) for setting in settings)
        found.append(f"{title}: {result['documents']} of {result['of']} documents; {made}.")
        if result["documents"] < result["of"]:
            found.append(f"{title} is not the published set: only its first {result['documents']} documents were run.")
        if len(settings) > 1:
            found.append(f"{title}: the runs were not all made alike, so their clocks may not compare.")
        if any(setting["batch_size"] > 1 for setting in settings):
            found.append(f"{title}: rows of a batch share the machine; the published speed-ups are of batch 1.")
    return [f"- {note}" for note in found]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="OUTPUT_DIR of reproduce_paper.sh")
    parser.add_argument("--threshold", default="0.95", help="CAD's, as in the names of the runs (0.95)")
    arguments = parser.parse_args()
    places = {task: arguments.folder / "eval" / task for task in PAPER}
    require(
        any(place.is_dir() for place in places.values()),
        f"{arguments.folder}/eval holds none of {', '.join(PAPER)}: run scripts/reproduce_paper.sh first",
    )
    found = {t: benchmark(t, place, arguments.threshold) if place.is_dir() else None for t, place in places.items()}
    text = markdown(found)
    write_whole(arguments.folder / "table.md", text)
    write_whole(arguments.folder / "table.json", json.dumps(found, indent=2, allow_nan=False) + "\n")
    print(text + f"\nwrote {arguments.folder}/table.md and table.json")


if __name__ == "__main__":
    exit_with_message(main)
