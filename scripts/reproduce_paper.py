"""CD4LM's table: data, a mathematics and a code student, four benchmarks with paired baselines, published beside ours.

    TEACHER_MODEL_PATH=/models/LLaDA-8B-Instruct bash scripts/reproduce_paper.sh --confirm_run_unsafe_code
    DATA_DIR=/data TASKS="gsm8k math500" bash scripts/reproduce_paper.sh --limit 50 train.max_steps=100

Everything is checked, and both data sets are prepared, before the first training. Run the same command again to resume:
finished students, answers and data are kept. Paths are relative to the repository. From the environment:

  TEACHER_MODEL_PATH  folder or hub name (GSAI-ML/LLaDA-8B-Instruct)
  OUTPUT_DIR          students, runs, table.md and table.json (outputs/paper)
  TASKS               of gsm8k math500 humaneval mbpp (all); only the students they need are trained
  DATA_DIR            local rows in place of the hub: test files as evaluation/README.md names them, and, where they are
                      there, gsm8k/train.jsonl and opencode/train.jsonl (or .parquet) to distil on
  LIMIT               as --limit
  RECIPE              lora (up to 3 GPUs), full (from 4), or published: the configs configs/llada_8b_*
  NUM_PROCESSES       default: one per GPU; training takes the largest power of two of them, which divides its batches
  TRAIN_OVERRIDES     settings of both trainings, as the arguments
  THRESHOLD           of CAD (0.95)
  PROTOCOL            as --protocol: default, published, or field, under which the other methods' figures were published
  BATCH_SIZE DTYPE GEN_LENGTH BLOCK_LENGTH   of the evaluation, see evaluation/scripts/common.sh
"""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from run_experiment import ROOT, check_data, check_experiment, prepare_command, run, run_experiment

from cd4lm.config import CommandParser, exit_with_message, load, require
from cd4lm.io import weights_fingerprint, write_json
from cd4lm.model.loading import load_config, parameter_count
from cd4lm.settings import ExperimentConfig
from cd4lm.training.resume import NOT_TRAINING, check_resume
from evaluation.dllm_eval.task_list import local_file, stock_files
from evaluation.metrics.scoring import RUNS_CODE
from evaluation.metrics.verdict import PROTOCOLS as SCORINGS
from evaluation.protocol import NAMES, Benchmark, Protocol

STUDENTS = {"gsm8k": ("gsm8k", "math500"), "opencode": ("humaneval", "mbpp")}  # by what they are distilled on
SCRIPTS = {"gsm8k": "gsm8k", "math500": "math", "humaneval": "humaneval", "mbpp": "mbpp"}
CONFIGS = {"full": "", "lora": "_lora", "published": "_published"}
EVALUATED_WITH = ("DATA_DIR", "BATCH_SIZE", "DTYPE", "GEN_LENGTH", "BLOCK_LENGTH")
FULL_GPUS = 4  # weights, masters, moments, gradients and teacher of 8B: about 46 GB each on 8, over 80 on fewer than 4


@dataclass(frozen=True)
class Plan:
    """What a command line and its environment ask for."""

    teacher: str
    output: Path
    data_dir: Path | None
    tasks: list[str]
    limit: int | None
    recipe: str
    processes: int
    threshold: str
    confirmed: bool
    overrides: list[str]
    protocol: str = "default"

    @property
    def own_protocol(self) -> bool:
        """Whether it is CD4LM's, with whose published figures the runs are paired."""
        return self.protocol in SCORINGS

    @property
    def runs(self) -> Path:
        """Where the benchmarks' runs go."""
        return self.output / ("eval" if self.own_protocol else f"eval_{self.protocol}")

    def benchmark(self, task: str) -> Benchmark:
        """What a task of TASKS is under the protocol."""
        return Protocol.read(self.protocol).find(SCRIPTS[task])

    @property
    def students(self) -> list[str]:
        return [name for name, tasks in STUDENTS.items() if any(task in tasks for task in self.tasks)]

    @property
    def training_processes(self) -> int:
        return 1 << (self.processes.bit_length() - 1)

    def config(self, student: str) -> str:
        return f"configs/llada_8b_{student}{CONFIGS[self.recipe]}.yaml"

    def settings(self, student: str) -> list[str]:
        """Overrides of a student's config; those of the command line come last and win."""
        found = [f"teacher={self.teacher}", f"output_dir={self.output / student}"]
        found.append(f"data.dir={self.output / 'data' / student}")
        files = (
            [] if self.data_dir is None else [self.data_dir / student / f"train.{end}" for end in ("jsonl", "parquet")]
        )
        found += [f"data.source={file}" for file in files if file.is_file()][:1]
        return [*found, *self.overrides]


def parse() -> Plan:
    parser = CommandParser(__doc__)
    env = os.environ
    parser.add_argument("--limit", type=int, default=env.get("LIMIT") or None, help="documents of each benchmark (all)")
    given = env.get("PROTOCOL") or "default"
    parser.add_argument("--protocol", default=given, help=f"of the benchmarks ({given}): {', '.join(NAMES)}")
    parser.add_argument("--confirm_run_unsafe_code", action="store_true", help="run generated programs, in a sandbox")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings of both trainings")
    arguments = parser.parse_intermixed_args()
    gpus = torch.cuda.device_count()
    processes = env.get("NUM_PROCESSES") or str(max(1, gpus))
    require(processes.isdigit() and int(processes) > 0, f"NUM_PROCESSES={processes} must be a positive number")
    return Plan(
        teacher=env.get("TEACHER_MODEL_PATH") or "GSAI-ML/LLaDA-8B-Instruct",
        output=Path(env.get("OUTPUT_DIR") or "outputs/paper"),
        data_dir=Path(env["DATA_DIR"]) if env.get("DATA_DIR") else None,
        tasks=(env.get("TASKS") or " ".join(SCRIPTS)).replace(",", " ").split(),
        limit=arguments.limit,
        recipe=env.get("RECIPE") or ("full" if gpus >= FULL_GPUS else "lora"),
        processes=int(processes),
        threshold=env.get("THRESHOLD") or "0.95",
        confirmed=arguments.confirm_run_unsafe_code,
        overrides=[*(env.get("TRAIN_OVERRIDES") or "").split(), *arguments.overrides],
        protocol=arguments.protocol,
    )


def check(plan: Plan) -> None:
    """All that can be known to be missing, before anything is written."""
    unknown = [task for task in plan.tasks if task not in SCRIPTS]
    require(not unknown, f"TASKS has {', '.join(unknown)}: use {', '.join(SCRIPTS)}")
    Protocol.read(plan.protocol)
    require(plan.recipe in CONFIGS, f"RECIPE={plan.recipe} is not one of {', '.join(CONFIGS)}")
    require(
        plan.limit is None or plan.limit >= plan.processes,
        f"--limit {plan.limit} must give each of the {plan.processes} process(es) a document: raise it",
    )
    programs = [task for task in plan.tasks if task in RUNS_CODE]
    require(
        plan.confirmed or not programs,
        f"{', '.join(programs)} run programs that a model wrote: read evaluation/README.md on the sandbox, then add "
        "--confirm_run_unsafe_code, or set TASKS",
    )
    if plan.data_dir is not None:
        for task in plan.tasks:
            benchmark = plan.benchmark(task)
            if plan.own_protocol:
                local_file(benchmark.task, plan.data_dir)
            else:
                stock_files(benchmark, plan.data_dir)
    for student in plan.students:
        config = load(ExperimentConfig, plan.config(student), plan.settings(student))
        check_experiment(config)
        if (Path(config.output_dir) / "config.yaml").is_file():
            check_resume(config, Path(config.output_dir), free=NOT_TRAINING)


def describe(plan: Plan) -> str:
    """What will be done, in the order in which it is done."""
    documents = "all documents" if plan.limit is None else f"{plan.limit} documents"
    lines = [f"teacher    {plan.teacher}"]
    for student in plan.students:
        folder, given = plan.output / student, " ".join(plan.settings(student)[2:])
        state = "done" if (folder / "student").is_dir() else f"{plan.training_processes} process(es)"
        lines.append(f"student    {folder}/student ({state}): {plan.config(student)} {given}")
    lines.append(
        f"benchmarks {' '.join(plan.tasks)}: {documents}, {plan.processes} process(es), CAD at {plan.threshold}"
        + ("" if plan.own_protocol else f", protocol {plan.protocol}")
    )
    if plan.own_protocol:
        lines.append(
            "runs       student + CAD (also with the tail after EOS, as published); teacher + CAD, which is the control;"
        )
        lines.append(
            "           teacher at one token per step, stopping at EOS and over the whole canvas, as published"
        )
    else:
        lines.append("runs       student + CAD; teacher + CAD, which is the control; teacher at one token per step")
    name = "table" if plan.own_protocol else f"table_{plan.protocol}"
    return "\n".join([*lines, f"table      {plan.output}/{name}.md and {name}.json"])


def evaluate(plan: Plan, task: str) -> None:
    """The student and its paired baselines on one benchmark."""
    student = next(name for name, tasks in STUDENTS.items() if task in tasks)
    environment = {
        "TASK": plan.benchmark(task).run_task,
        "PROTOCOL": plan.protocol,
        "MODEL_PATH": str(plan.output / student / "student"),
        "TEACHER_PATH": plan.teacher,
        "OUTPUT_PATH": str(plan.runs / task),
        # Decoding the tail after EOS is CD4LM's; the others' tables stop there.
        "RUNS": "cad cad_full" if plan.own_protocol else "cad",
        "TEACHER_RUNS": "cad fixed_stop fixed" if plan.own_protocol else "cad fixed_stop",
        "THRESHOLDS": plan.threshold,
        "NUM_PROCESSES": str(plan.processes),
        "LIMIT": "" if plan.limit is None else str(plan.limit),
    }
    made = environment | {name: os.environ.get(name, "") for name in EVALUATED_WITH}
    made["weights"] = weights_fingerprint(plan.output / student / "student")
    record = plan.runs / task / "finished.json"
    if record.is_file() and json.loads(record.read_text()) == made:
        print(f"\n== evaluation of {task}: done before", flush=True)
        return
    record.unlink(missing_ok=True)
    confirm = ["--confirm_run_unsafe_code"] if task in RUNS_CODE else []
    run(f"evaluation of {task}", ["bash", f"evaluation/scripts/eval_{SCRIPTS[task]}.sh", *confirm], environment)
    write_json(record, made)


def main():
    plan = parse()
    os.chdir(ROOT)
    os.environ["NUM_PROCESSES"] = str(plan.training_processes)  # what run_experiment starts
    check(plan)
    print(describe(plan), flush=True)
    if not torch.cuda.is_available() and (size := parameter_count(load_config(plan.teacher))) > 1e9:
        print(f"warning: no GPU, and a teacher of {size / 1e9:.1f} B parameters: this takes months", file=sys.stderr)
    for student in plan.students:  # both, so that a hub that cannot be reached is known before the first training
        config = load(ExperimentConfig, plan.config(student), plan.settings(student))
        if not check_data(config.data):
            run(f"data of {student}", prepare_command(config))
    for student in plan.students:
        run_experiment(plan.config(student), plan.settings(student))
    for task in plan.tasks:
        evaluate(plan, task)
    how = ["--threshold", plan.threshold] if plan.own_protocol else ["--protocol", plan.protocol]
    run("table", [sys.executable, "scripts/paper_table.py", str(plan.output), *how])


if __name__ == "__main__":
    exit_with_message(main)
