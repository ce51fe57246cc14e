"""The protocols under which benchmarks are run: which task, prompt, canvas and score a figure belongs to.

    python -m evaluation.protocol NAME BENCHMARK        what evaluation/scripts read of it

Each is a file of evaluation/protocols. A run records its own conditions; only runs under equal conditions share a column.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from cd4lm.config import STRICT, CommandParser, Count, exit_with_message, load, require
from evaluation.dllm_eval.options import PREFIX, is_ours
from evaluation.metrics.verdict import PROTOCOLS as SCORINGS

FOLDER = Path(__file__).parent / "protocols"
NAMES = tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))
CANVAS = ("gen_length", "block_length")


@dataclass(frozen=True, config=STRICT)
class Benchmark:
    """One benchmark under a protocol.

    task: as --tasks has it, of this repository or lm-eval's own; documents: in its whole test split.
    score: what makes an answer right: `default` or `published` (evaluation/metrics), or lm-eval's own `metric,filter`.
    num_fewshot, chat_template, gen_length, block_length: prompt and canvas. until: what ends an answer, null leaves the
    strings of the task.
    files: of lm-eval's tasks, the rows of each split in --data_dir; {subset} is the task's data set. columns: what a row
    must have, and a text that must stand in it. task_ids: the first and the last row of the split.
    """

    title: str
    task: str
    documents: Count
    score: str
    gen_length: Count
    block_length: Count
    num_fewshot: Annotated[int, Field(ge=0)] = 0
    chat_template: bool = True
    until: tuple[str, ...] | None = None
    files: dict[str, str] | None = None
    columns: dict[str, str] | None = None
    task_ids: tuple[int, int] | None = None

    def __post_init__(self):
        known = self.score in SCORINGS or self.score.count(",") == 1
        require(known, f"score={self.score!r} must be {', '.join(SCORINGS)} or lm-eval's metric,filter")
        possible = self.score in SCORINGS or not is_ours(self.task)
        require(possible, f"score={self.score!r} is lm-eval's, but {self.task} is not")

    @property
    def run_task(self) -> str:
        """What runs of it are called."""
        return self.task.removeprefix(PREFIX)

    def conditions(self, **changes) -> dict:
        """Everything that figures must share to stand in one column, as a run records it."""
        names = ("task", "num_fewshot", "chat_template", "score", "until", *CANVAS)
        own = {name: vars(self)[name] for name in names} | {"samples": 1} | changes
        return own | {"until": None if own["until"] is None else list(own["until"])}


@dataclass(frozen=True, config=STRICT)
class Protocol:
    """A stored protocol. title and source: what it is and where it comes from, in a line each; benchmarks by name."""

    title: str
    source: str
    benchmarks: dict[str, Benchmark]
    name: str = ""

    @classmethod
    def read(cls, name: str) -> "Protocol":
        """Raises ValueError for a protocol that is not stored, and for a file that cannot be used."""
        require(name in NAMES, f"--protocol {name} is not one of {', '.join(NAMES)}")
        return replace(load(cls, FOLDER / f"{name}.yaml"), name=name)

    @property
    def scoring(self) -> str:
        """How evaluation/metrics judges under it."""
        return next((b.score for b in self.benchmarks.values() if b.score in SCORINGS), SCORINGS[0])

    def check_tasks(self, tasks: Sequence[str]) -> None:
        """Raise ValueError for a task that is not the protocol's, where it has lm-eval's alone.

        CD4LM's also stand for no protocol at all, under which any of lm-eval's tasks may be run.
        """
        own = [benchmark.task for benchmark in self.benchmarks.values()]
        others = [task for task in tasks if task not in own]
        known = any(map(is_ours, own)) or not others
        require(known, f"--protocol {self.name} does not have {', '.join(others)}: use {', '.join(own)}")

    def of(self, task: str) -> Benchmark | None:
        """The benchmark that is run as this task of --tasks, if there is one."""
        return next((b for b in self.benchmarks.values() if b.task == task), None)

    def find(self, name: str) -> Benchmark:
        """The benchmark of this name, or with this task. Raises ValueError if there is none."""
        found = self.benchmarks.get(name) or self.of(name) or self.of(PREFIX + name)
        require(found is not None, f"protocol {self.name} has no benchmark {name}: use {', '.join(self.benchmarks)}")
        return found


def prompt_conditions(recorded: dict | None) -> dict | None:
    """What prompts and scores depend on, of the conditions of a run; None where the run recorded none."""
    return None if recorded is None else {k: v for k, v in recorded.items() if k not in (*CANVAS, "name")}


def same_conditions(recorded: dict | None, stored: dict) -> bool:
    """Whether a run was made under stored conditions, by whatever name."""
    return recorded is not None and {k: v for k, v in recorded.items() if k != "name"} == stored


def describe(conditions: dict | None) -> str:
    """Conditions in one line."""
    if conditions is None:
        return "protocol not recorded"
    c = conditions
    harness = "this repository's" if is_ours(c["task"]) else "lm-eval's"
    words = [
        f"{harness} {c['task'].removeprefix(PREFIX)}",
        f"{c['num_fewshot']} shots",
        "chat template" if c["chat_template"] else "raw text",
        f"canvas {c['gen_length']}, block {c['block_length']}",
        f"score {c['score']}",
    ]
    words += [] if c["until"] is None else [f"ends at {c['until'] or 'EOS alone'}"]
    words += [] if c["samples"] == 1 else [f"pass@{c['samples']}"]
    return ", ".join(words)


def differences(conditions: dict, stored: dict) -> str:
    """In which conditions a run differs from stored ones."""
    return ", ".join(
        f"{name}={conditions[name]}, not {stored[name]}" for name in stored if conditions[name] != stored[name]
    )


def main():
    parser = CommandParser(__doc__)
    parser.add_argument("name", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("benchmark", metavar="BENCHMARK", help="gsm8k, math, humaneval, mbpp, or a task")
    arguments = parser.parse_args()
    found = Protocol.read(arguments.name).find(arguments.benchmark)
    print(found.run_task, found.task, found.gen_length, found.block_length)


if __name__ == "__main__":
    exit_with_message(main)
