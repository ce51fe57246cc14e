"""lm-eval's own tasks: which a name stands for, their programs in this repository's sandbox, and the run they make."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from statistics import mean
from types import ModuleType

from lm_eval.tasks import TaskManager
from lm_eval.tasks._index import Kind

from cd4lm.config import require
from evaluation.dllm_eval.scoring import Judge, measures
from evaluation.intervals import pass_at_k
from evaluation.metrics import sandbox
from evaluation.metrics.verdict import NO_ANSWER, RIGHT, WRONG, Scoring, Verdict
from evaluation.metrics.verdict import PROTOCOLS as SCORINGS
from evaluation.protocol import Benchmark

NOTHING = "[invalid]"  # what lm-eval's regular expressions give where they match nothing


class CodeEval:
    """In place of the hub's metric code_eval, which runs programs unprotected: the same numbers, from the sandbox."""

    def __init__(self, scoring: Scoring):
        self.scoring = scoring

    def compute(
        self, *, references: Sequence[str], predictions: Sequence[Sequence[str]], k: Sequence[int] = (1, 10, 100)
    ) -> tuple[dict[str, float], list[list[str]]]:
        """pass@k of each k that there are samples for, and the outcome of every program; a reference is its tests."""
        sandbox.check(self.scoring)
        outcomes = [
            [sandbox.run(program, tests, self.scoring.sandbox)[0] for program in programs]
            for tests, programs in zip(references, predictions, strict=True)
        ]
        possible = [each for each in k if all(len(own) >= each for own in outcomes)]
        return {
            f"pass@{each}": mean(pass_at_k(len(own), own.count(RIGHT), each) for own in outcomes) for each in possible
        }, outcomes


def members(manager: TaskManager, name: str) -> list[str]:
    """The tasks that a name of lm-eval's stands for: those of a group, or itself."""
    entry = manager.task_index[name]
    return list(entry.cfg["task"]) if entry.kind is Kind.GROUP else [name]


@contextmanager
def programs_in_the_sandbox(manager: TaskManager, names: Iterable[str], scoring: Scoring) -> Iterator[None]:
    """While tasks are loaded, those that run programs get CodeEval where they ask the package `evaluate` for code_eval.

    Raises ValueError without the user's consent to run programs, SandboxError without a sandbox.
    """
    known = (name for name in names if name in manager.task_index)
    indexed = {member: manager.task_index[member] for name in known for member in members(manager, name)}
    unsafe = [name for name, entry in indexed.items() if (entry.cfg or {}).get("unsafe_code")]
    if not unsafe:
        yield
        return
    require(
        scoring.confirm_run_unsafe_code,
        f"{', '.join(unsafe)} runs programs that a model wrote: read evaluation/README.md on the sandbox, then add "
        "--confirm_run_unsafe_code",
    )
    sandbox.check(scoring)

    def load(metric: str, *_, **__) -> CodeEval:
        require(metric == "code_eval", f"{', '.join(unsafe)} asks for the metric {metric}, which is not code_eval")
        return CodeEval(scoring)

    loaded = [name for name in sys.modules if name.startswith("lm_eval.tasks.")]
    for name in loaded:  # perhaps for another sandbox
        if any(isinstance(value, CodeEval) for value in vars(sys.modules[name]).values()):
            del sys.modules[name]
    stand_in, before = ModuleType("evaluate"), sys.modules.get("evaluate")
    stand_in.load = load
    sys.modules["evaluate"] = stand_in
    try:
        yield
    finally:
        del sys.modules["evaluate"]
        if before is not None:
            sys.modules["evaluate"] = before


def check_marks(rows: Iterable[dict], marks: dict[str, str], source: Path) -> None:
    """Raise ValueError naming the first row in which a column lacks the text that lm-eval looks for."""
    for number, row in enumerate(rows, start=1):
        for column, mark in marks.items():
            require(mark in row[column], f"{source} row {number} has no {mark} in column {column!r}: repair it")


def documents(samples: dict[str, list[dict]], names: Sequence[str], benchmark: Benchmark, judge: Judge) -> list[dict]:
    """lm-eval's records of a benchmark's documents as those of one of our tasks, in the order of its tasks.

    Of several tasks a document is called after its own, too. What is right is the benchmark's score.
    """
    found = []
    kept = {name: sorted(scored(samples[name], benchmark), key=lambda row: row["doc_id"]) for name in names}
    if benchmark.score in SCORINGS:
        for row in chain.from_iterable(kept.values()):  # programs run beside one another
            judge.submit(benchmark.task, row["doc"], row["resps"][0][0])
    for name, rows in kept.items():
        for row in rows:
            response = row["resps"][0][0]
            verdict = verdict_of(row, benchmark, judge)
            number = row["doc_id"] if len(names) == 1 else f"{name}/{row['doc_id']}"
            found.append(row | {"doc_id": number, "filtered_resps": [response]} | measures([response], [verdict]))
    return found


def scored(rows: list[dict], benchmark: Benchmark) -> list[dict]:
    """The rows with the benchmark's filter; lm-eval records a document once for each."""
    wanted = rows[0]["filter"] if benchmark.score in SCORINGS else benchmark.score.partition(",")[2]
    found = [row for row in rows if row["filter"] == wanted]
    filters = sorted({row["filter"] for row in rows})
    require(bool(found), f"score={benchmark.score}: {benchmark.task} has no filter {wanted}, only {', '.join(filters)}")
    return found


def verdict_of(row: dict, benchmark: Benchmark, judge: Judge) -> Verdict:
    """The verdict on a document: of evaluation/metrics on the whole response, or lm-eval's metric."""
    if benchmark.score in SCORINGS:
        return judge.submit(benchmark.task, row["doc"], row["resps"][0][0]).result()
    metric, answer = benchmark.score.partition(",")[0], row["filtered_resps"][0]
    require(metric in row, f"score={benchmark.score}: {benchmark.task} has no metric {metric}")
    if row[metric]:
        return Verdict(RIGHT, str(answer))
    return Verdict(NO_ANSWER) if answer == NOTHING else Verdict(WRONG, str(answer))
