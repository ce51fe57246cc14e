"""The paper's table beside ours: for every published figure our interval, and what teacher + CAD, the control, says.

    python scripts/paper_table.py outputs/paper [--threshold 0.95]
    python scripts/paper_table.py outputs/eval --protocol field

Reads the runs of scripts/reproduce_paper.sh under FOLDER/eval; what a run is, student or teacher and which decoder, stands in its
run.json. Writes FOLDER/table.md and FOLDER/table.json. Accuracies have Wilson's 95 % interval; gains, forward passes and wall
clock a bootstrap interval over the same documents.

With --protocol every run below FOLDER stands beside the figures that were published under its protocol (the other methods on
LLaDA-8B under `field`), one table for each protocol and benchmark: FOLDER/table_NAME.md and table_NAME.json.
"""

from dataclasses import dataclass
from pathlib import Path

from cd4lm.config import CommandParser, exit_with_message, require
from cd4lm.io import write_json, write_text
from evaluation import published
from evaluation.compare import check_paired, paired, summarise
from evaluation.protocol import NAMES, Protocol
from evaluation.published import published_tables
from evaluation.report import interval, percent, read_runs, table
from evaluation.run import Run


@dataclass(frozen=True)
class Published:
    """A row of CD4LM's table: documents, accuracies in percent, and how many times less wall clock CD4LM takes."""

    title: str
    documents: int
    llada: float
    cd4lm: float
    speedup: float


def paper() -> dict[str, Published]:
    """CD4LM's table as stored in evaluation/published.yaml, by the task of our runs."""
    stored, found = next(t for t in published_tables() if "CD4LM" in t.methods), {}
    for name, speedup in stored.speedups.items():
        benchmark = Protocol.read(stored.protocol).find(name)
        accuracies = [stored.methods[method][name][0][1] for method in ("LLaDA", "CD4LM")]
        found[benchmark.run_task] = Published(benchmark.title, benchmark.documents, *accuracies, speedup)
    return found


PAPER = paper()
# Whose weights, policy, and whether it stops at EOS; without that the tail is decoded too, as published.
RUNS = {
    "student + CAD": ("student", "cad", True),
    "student + CAD, full": ("student", "cad", False),
    "teacher + CAD": ("teacher", "cad", True),
    "teacher, fixed": ("teacher", "fixed", True),
    "teacher, fixed, full": ("teacher", "fixed", False),
}
NOTES = """Published figures are single runs in another harness, without intervals: that ours contains one shows no more than that the
two do not contradict each other. `full` decodes the tail after EOS, as published; tokens are counted before EOS. Rows of a batch
share the machine, so only runs of batch 1 compare with the published speed-ups. The control decides what distillation adds."""


def role_of(run: Run, folder: Path, threshold: float) -> str | None:
    """Which of RUNS a run is; None for another threshold or decoder. A student's weights lie below the folder."""
    decoder = run.about["decoder"]
    inside = Path(run.about["model"]["folder"]).resolve().is_relative_to(folder.resolve())
    if decoder["policy"] == "cad" and decoder["confidence_threshold"] != threshold:
        return None
    key = ("student" if inside else "teacher", decoder["policy"], decoder["stop_at_eos"])
    return next((name for name, wanted in RUNS.items() if wanted == key), None)


def runs_of(folder: Path, threshold: float) -> dict[str, dict[str, Run]]:
    """The runs of each benchmark that has any, by role. Raises ValueError naming a role without a finished run."""
    found: dict[str, dict[str, Run]] = {}
    for file in sorted((folder / "eval").rglob("run.json")):
        run = Run.read(file.parent)
        role = role_of(run, folder, threshold)
        if role is not None and run.task in PAPER:
            found.setdefault(run.task, {})[role] = run
    for task, runs in found.items():
        lacks = [role for role in RUNS if role not in runs]
        require(not lacks, f"{folder}/eval has no finished run `{', '.join(lacks)}` of {task} (CAD at {threshold:g})")
    return found


def figure(name: str, published: float | None, e: dict, form: str, scale: float = 1, told: bool = True) -> dict:
    """One figure with its interval; contains: whether the published one lies in it, None where that cannot be said."""
    value, low, high = (scale * e[bound] for bound in ("value", "low", "high"))
    contains = low <= published <= high if told and published is not None else None
    return {"figure": name, "published": published, "value": value, "low": low, "high": high} | {
        "contains": contains,
        "form": form,
    }


def accuracy(summary: dict) -> dict:
    low, high = summary["accuracy_95"]
    return {"value": summary["accuracy"], "low": low, "high": high}


def benchmark(task: str, runs: dict[str, Run]) -> dict:
    """The published figures of one benchmark beside ours, the control, and every run."""
    check_paired(list(runs.values()))
    paper, own = PAPER[task], {name: summarise(run) for name, run in runs.items()}
    gain = paired(runs["teacher, fixed, full"], runs["student + CAD"])
    differ = gain["only_reference_right"] + gain["only_other_right"]  # else a bootstrap interval has no width

    def faster(slow: str, fast: str) -> dict:
        return paired(runs[slow], runs[fast])["faster"]

    return {
        "documents": own["teacher + CAD"]["documents"],
        "of": paper.documents,
        "figures": [
            figure("LLaDA, %", paper.llada, accuracy(own["teacher, fixed, full"]), ".1f", 100),
            figure("CD4LM, %", paper.cd4lm, accuracy(own["student + CAD"]), ".1f", 100),
            figure(
                "gain, points", paper.cd4lm - paper.llada, gain["accuracy_difference"], "+.1f", 100, told=differ > 0
            ),
            figure(
                "speed-up, whole canvas", paper.speedup, faster("teacher, fixed, full", "student + CAD, full"), ".2f"
            ),
            figure("speed-up, stopping at EOS", None, faster("teacher, fixed", "student + CAD"), ".2f"),
            figure("speed-up of the teacher alone", None, faster("teacher, fixed", "teacher + CAD"), ".2f"),
        ],
        "control": paired(runs["teacher + CAD"], runs["student + CAD"]),
        "runs": own,
        "made": sorted({made(run) for run in runs.values()}),
    }


def made(run: Run) -> str:
    """Where and how a run was made, as far as its clock depends on it."""
    about, where = run.about, run.about["provenance"]
    return (
        f"{where['device']}, {about['model']['dtype']}, batch {about['settings']['batch_size']}, "
        f"{about['processes']} process(es), commit {where['commit']}"
    )


def figure_rows(found: dict[str, dict | None]) -> list[list[str]]:
    rows = []
    for task, paper in PAPER.items():
        if found[task] is None:
            figures = f"{paper.llada}, {paper.cd4lm}, {paper.cd4lm - paper.llada:+.1f}, {paper.speedup:.2f}"
            rows.append([paper.title, "LLaDA, CD4LM, gain, speed-up", figures, "not run", ""])
            continue
        for f in found[task]["figures"]:
            published = "" if f["published"] is None else format(f["published"], f["form"])
            words = {True: "yes", False: "no", None: "" if f["published"] is None else "no document differs"}
            rows.append([paper.title, f["figure"], published, interval(f, 1, f["form"]), words[f["contains"]]])
    return rows


def markdown(found: dict[str, dict | None]) -> str:
    """Three tables: published against ours, the control, all runs; and what limits them."""
    done = {PAPER[task].title: result for task, result in found.items() if result is not None}
    control, runs, made_by = [], [], []
    for title, result in done.items():
        c = result["control"]
        points = interval(c["accuracy_difference"], 100, "+.1f")
        control.append(
            [title, points, f"{c['mcnemar_p']:.3g}", interval(c["fewer_nfe"]), interval(c["faster"])],
        )
        for name, r in result["runs"].items():
            cost = [f"{r['nfe']:.1f}", f"{r['tokens_per_forward']:.2f}", f"{r['latency_mean']:.3g}"]
            runs.append([title, name, percent(r), *cost])
        part = "" if result["documents"] == result["of"] else " (not the whole published set)"
        made_by.append(
            f"- {title}: {result['documents']} of {result['of']} documents{part}; {'; '.join(result['made'])}."
        )
    parts = [
        "# CD4LM's table, published and reproduced",
        table(["benchmark", "figure", "published", "ours [95 %]", "contains the published figure"], figure_rows(found)),
        "## The control: student + CAD against teacher + CAD",
        table(["benchmark", "difference, points", "McNemar p", "times fewer NFE", "times faster"], control),
        "## Runs",
        table(["benchmark", "run", "accuracy, % [95 %]", "NFE", "tokens per forward", "seconds"], runs),
        NOTES,
        "\n".join(made_by),
    ]
    return "\n\n".join(parts) + "\n"


def write_published(folder: Path, protocol: str) -> None:
    """The tables of all runs below a folder beside published figures, one for each protocol and benchmark."""
    pools = published.pools_of(read_runs([folder]), protocol)
    text = published.markdown(pools, protocol)
    write_text(folder / f"table_{protocol}.md", text)
    write_json(folder / f"table_{protocol}.json", published.as_json(pools))
    print(text + f"\nwrote {folder}/table_{protocol}.md and table_{protocol}.json")


def main():
    parser = CommandParser(__doc__)
    parser.add_argument("folder", type=Path, help="OUTPUT_DIR of reproduce_paper.sh")
    parser.add_argument("--threshold", type=float, default=0.95, help="CAD's (0.95)")
    parser.add_argument("--protocol", choices=NAMES, help="set all runs beside the figures published under it")
    arguments = parser.parse_args()
    if arguments.protocol is not None:
        return write_published(arguments.folder, arguments.protocol)
    runs = runs_of(arguments.folder, arguments.threshold)
    require(bool(runs), f"{arguments.folder}/eval holds no finished run: run scripts/reproduce_paper.sh first")
    found = {task: benchmark(task, runs[task]) if task in runs else None for task in PAPER}
    text = markdown(found)
    write_text(arguments.folder / "table.md", text)
    write_json(arguments.folder / "table.json", found)
    print(text + f"\nwrote {arguments.folder}/table.md and table.json")


if __name__ == "__main__":
    exit_with_message(main)
