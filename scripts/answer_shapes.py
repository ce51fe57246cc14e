"""The table of shapes: gold answers and programs of the four benchmarks, written in many ways, right and wrong, and scored.

    python scripts/answer_shapes.py --data_dir FOLDER [--sample N] [--tasks gsm8k math500 humaneval mbpp] [--write docs/answer_shapes.md]

FOLDER holds gsm8k/test.jsonl, math500/test.jsonl, humaneval/test.jsonl and mbpp/all.jsonl as published. --sample takes every
n-th row such that N are left. Programs run in the sandbox; all of them take about a quarter of an hour on two cores.
"""

import textwrap
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from shapes import answers, programs

from cd4lm.config import CommandParser, exit_with_message, require
from cd4lm.data.rows import read_jsonl
from cd4lm.io import write_text
from evaluation.metrics.mbpp import TEST_IDS, tests_of
from evaluation.metrics.programs import called_names
from evaluation.metrics.scoring import METRICS, RUNS_CODE, judge_all
from evaluation.metrics.verdict import Scoring

FILES = {"gsm8k": "gsm8k/test", "math500": "math500/test", "humaneval": "humaneval/test", "mbpp": "mbpp/all"}


class Case(NamedTuple):
    """A row with a response: its shape, and whether it is to be accepted."""

    shape: str
    right: bool
    row: dict
    response: str


def rows_of(data_dir: Path, task: str, sample: int | None) -> list[dict]:
    """Rows of a benchmark's test split. Raises ValueError where the file is not there."""
    path = data_dir / f"{FILES[task]}.jsonl"
    require(path.is_file(), f"{path} does not exist: --data_dir must hold the published files")
    rows = [row for row in read_jsonl(path) if task != "mbpp" or row["task_id"] in TEST_IDS]
    return rows if sample is None else rows[:: max(1, len(rows) // sample)]


def cases(task: str, row: dict) -> Iterator[Case]:
    """Every shape of a row's gold answer, right and wrong."""
    if task in RUNS_CODE:
        yield from program_cases(task, row)
        return
    gold = row["answer"].rpartition("####")[2].strip().replace(",", "") if task == "gsm8k" else row["answer"]
    for right, made in ((True, answers.right_answers), (False, answers.wrong_answers)):
        for shape, response in made(task, gold).items():
            yield Case(shape, right, row, response)


def program_cases(task: str, row: dict) -> Iterator[Case]:
    if task == "humaneval":
        entry, code = row["entry_point"], row["prompt"].strip("\n") + "\n" + row["canonical_solution"].strip("\n")
        for shape, make in programs.BODIES.items():
            yield Case(shape, True, row, make(row["canonical_solution"].rstrip()))
    else:
        entry, code = sorted(called_names(tests_of(row))[0])[-1], row["code"].replace("\r\n", "\n").strip("\n")
    for shape, make in programs.SHAPES.items():
        yield Case(shape, True, row, make(textwrap.dedent(code), entry))


def measure(task: str, rows: list[dict]) -> tuple[dict[str, list[Case]], dict[str, int], float]:
    """Of a task: the cases per shape that were scored otherwise than they should, the number of cases, and the seconds."""
    tried = [case for row in rows for case in cases(task, row)]
    start = time.perf_counter()
    scoring = Scoring(confirm_run_unsafe_code=task in RUNS_CODE)
    verdicts = judge_all(task, ((case.row, case.response) for case in tried), scoring)
    failed, counts = defaultdict(list), defaultdict(int)
    for case, verdict in zip(tried, verdicts, strict=True):
        name = case.shape if case.right else f"wrong: {case.shape}"
        counts[name] += 1
        if verdict.right != case.right:
            failed[name].append(case)
    return failed, counts, time.perf_counter() - start


def describe(task: str, rows: list[dict]) -> list[str]:
    """A task's section of the table."""
    failed, counts, seconds = measure(task, rows)
    lines = [f"## {task}: {len(rows)} rows, {sum(counts.values())} responses, scored in {seconds:.0f} s", ""]
    wrong = sum(n for name, n in counts.items() if name.startswith("wrong: "))
    if wrong:
        accepted = sum(len(cases) for name, cases in failed.items() if name.startswith("wrong: "))
        lines += [f"Wrong answers accepted: {accepted} of {wrong} ({100 * accepted / wrong:.3f} %).", ""]
    lines += ["| shape | responses | scored as they should be |", "|---|---:|---:|"]
    for name, n in counts.items():
        lines.append(f"| {name} | {n} | {100 * (n - len(failed[name])) / n:.2f} % |")
    exceptions = [case for name in counts for case in failed[name]]
    if exceptions:
        lines += ["", "Exceptions:", ""]
        lines += [f"- {case.shape}: {identity(task, case.row)}, `{shown(case.response)}`" for case in exceptions[:60]]
    return [*lines, ""]


def identity(task: str, row: dict) -> str:
    return str(row["task_id"]) if task in RUNS_CODE else f"gold `{shown(row['answer'].rpartition('####')[2].strip())}`"


def shown(text: str) -> str:
    """One line of a text for a list."""
    return " ".join(text.replace("`", "'").split())[:100]


def main() -> None:
    parser = CommandParser(__doc__)
    parser.add_argument("--data_dir", type=Path, required=True)
    parser.add_argument("--sample", type=int, help="rows per task; all if left out")
    parser.add_argument("--tasks", nargs="+", choices=METRICS, default=list(METRICS))
    parser.add_argument("--write", type=Path, help="a Markdown file for the table")
    arguments = parser.parse_args()
    require(arguments.sample is None or arguments.sample >= 1, f"--sample {arguments.sample} must be at least 1")
    rows = {task: rows_of(arguments.data_dir, task, arguments.sample) for task in arguments.tasks}
    lines = ["# Shapes of answers", "", HEAD, ""]
    for task in arguments.tasks:
        part = describe(task, rows[task])
        print("\n".join(part), flush=True)
        lines += part
    if arguments.write:
        write_text(arguments.write, "\n".join(lines))


HEAD = """Made by `python scripts/answer_shapes.py --data_dir FOLDER --write docs/answer_shapes.md`: every gold answer of the
test splits in each shape (scripts/shapes), scored under the default protocol. A right answer must be accepted, one whose
shape begins with "wrong" refused.

Whoever wrote the rules wrote the shapes too, so a hundred percent says nothing about kinds that neither thought of. Known to be
missed, as no answer or as wrong: numbers in words ("eighteen") and with letters for thousands ("1.5k"), a continental decimal comma
("1.200,50"), quantities inside a longer phrase ("5 boxes of 12"), and a program that is a method of a class or stands behind `>>>`."""

if __name__ == "__main__":
    exit_with_message(main)
