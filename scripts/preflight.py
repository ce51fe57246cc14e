"""The hour before a launch: whether a training config will run on the GPUs it asks for, before anything is downloaded.

    python scripts/preflight.py configs/llada_8b_gsm8k.yaml [key=value ...]
    python scripts/preflight.py configs/llada_8b_gsm8k.yaml --gpus 8 --gpu_memory_gb 40     # planning
    python scripts/preflight.py configs/tiny.yaml --measure                                 # and a real step, to compare
    python scripts/preflight.py configs/tiny_lora.yaml --shape 1b --measure train.batch_size=1

One line per check: checkpoint, tokenizer, data, memory, time, disk, and on a machine with GPUs what only they can show.
Memory is that of one real step of the trainer on tensors without data, with the longest rows and the largest masks that the
config allows; of ZeRO's states DeepSpeed's own estimator speaks. Exit status: 0 it fits; 1 it does not, or something is
wrong, which the last line names; 2 a mistyped command; 3 the memory could not be told.
"""

import argparse
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from benchmarking.machine import about, markdown
from preflighting import checks, gpu
from preflighting.checks import GB, NO, OK, UNKNOWN, Row, guarded, row, size
from preflighting.standin import with_shapes
from preflighting.verdict import measured_apart, memory_row, predicted, progress, remedy

from cd4lm.config import CommandParser, exit_with_message, load, one_line, read_tree, require
from cd4lm.io import check_writable, write_json
from cd4lm.model.checkpoint import CheckpointError
from cd4lm.settings import ExperimentConfig
from cd4lm.training.processes import processes_asked, split_step

DEFAULT_GB = 80.0
COULD_NOT_TELL = 3


def parse() -> argparse.Namespace:
    parser = CommandParser(__doc__)
    parser.add_argument("config", help="YAML file of a training run, for instance one of configs/")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace those of the file")
    parser.add_argument("--gpus", type=int, help="processes, one per GPU (default: NUM_PROCESSES, else the config's)")
    parser.add_argument(
        "--gpu_memory_gb", type=float, help=f"of each GPU, 10^9 bytes (default: this one's, else {DEFAULT_GB:g})"
    )
    parser.add_argument(
        "--tflops", type=float, help="what one GPU gets out of a training step (default: measured here)"
    )
    parser.add_argument("--shape", choices=("tiny", "100m", "1b", "8b"), help="a LLaDA of this size for the checkpoint")
    parser.add_argument(
        "--measure", action="store_true", help="also run a real step here, in one process, random weights"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table for programs")
    return parser.parse_intermixed_args()


def check_options(arguments: argparse.Namespace) -> None:
    for name in ("gpus", "gpu_memory_gb", "tflops"):
        value = vars(arguments)[name]
        require(value is None or value > 0, f"--{name}={value} must be above 0")
    if arguments.json is not None:
        check_writable("--json", arguments.json)


def check_run(config: ExperimentConfig, measure: bool) -> None:
    """Raise ValueError for processes that cannot share a step, before the work."""
    processes = processes_asked(config.train)
    split_step(config.train, processes)
    require(not measure or processes == 1, "a step is measured in one process: --measure needs --gpus 1")


def memory_of(arguments: argparse.Namespace) -> float:
    """Bytes of each GPU."""
    if arguments.gpu_memory_gb is not None:
        return arguments.gpu_memory_gb * GB
    return torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else DEFAULT_GB * GB


def students(arguments: argparse.Namespace) -> dict[str, ExperimentConfig]:
    """The experiment and its further students by name, the experiment itself first."""
    tree = read_tree(Path(arguments.config))
    require(
        "teacher" in tree or "shape" not in tree,
        f"{arguments.config} trains a teacher from nothing (cd4lm.training.pretrain), on a CPU: preflight is for students",
    )
    first = load(ExperimentConfig, arguments.config, arguments.overrides)
    further = {
        name: load(ExperimentConfig, arguments.config, [*arguments.overrides, *changes])
        for name, changes in first.also.items()
    }
    return {"": first} | {name: replace(config, also={}) for name, config in further.items()}


def memory_rows(name: str, config: ExperimentConfig, arguments: argparse.Namespace, folder: Path):
    """The lines of a student's memory, its prediction, and the refusal if it does not fit."""
    check, memory = f"memory{name and ': '}{name}", memory_of(arguments)
    try:
        shaped, origin = with_shapes(config, arguments.shape, folder)
    except CheckpointError as error:
        return [row(check, UNKNOWN, str(error))], None, None
    progress(f"one step of {name or 'the student'} under fake tensors")
    try:
        found = predicted(shaped)
    except (RuntimeError, ImportError) as error:  # an operation that torch cannot run without data; no DeepSpeed
        return [row(check, UNKNOWN, f"the step could not be run without data: {one_line(error)}")], None, None
    line = memory_row(check, config, found, memory, origin)
    rows, refusal = [line], None
    if line.verdict == NO:
        helps = remedy(shaped, found.peak, memory, progress)
        rows.append(row(f"{check}, what helps", OK if helps.fits else NO, helps.words, settings=helps.settings))
        where = f"{processes_asked(config.train)} x {memory / GB:g} GB"
        refusal = f"{arguments.config} does not fit {where}: peak {size(found.peak)}; {helps.words}"
    if arguments.measure:
        rows.append(measured(check, shaped, found))
    return rows, found, refusal


def measured(check: str, config: ExperimentConfig, found) -> Row:
    """A real step beside the prediction."""
    progress("a real step")
    real = measured_apart(config)
    above = found.peak - found.weights, real["peak"] - real["weights"]
    what = (
        f"peak {real['peak'] / GB:.3f} GB, predicted {found.peak / GB:.3f} ({found.peak / real['peak'] - 1:+.1%}); above the "
        f"weights {above[1] / GB:.3f}, predicted {above[0] / GB:.3f} ({above[0] / above[1] - 1:+.1%})"
    )
    return row(f"{check}, measured", OK, what, measured=real)


def table(arguments: argparse.Namespace) -> tuple[list[Row], str | None]:
    """Every line, and the first refusal."""
    runs = students(arguments)
    for student in runs.values():
        check_run(student, arguments.measure)
    config = runs[""]
    rows = [guarded("checkpoint", checks.checkpoint, config.teacher)]
    if config.init_from is not None:
        rows.append(guarded("checkpoint: init_from", checks.checkpoint, config.init_from))
    rows.append(guarded("tokenizer", checks.tokenizer_fits, config))
    rows.append(guarded("data", checks.data_fits, config))
    examples, refusals, first = rows[-1].numbers.get("examples"), [], None
    for number, (name, student) in enumerate(runs.items()):
        with tempfile.TemporaryDirectory() as folder:
            lines, found, refusal = memory_rows(name, student, arguments, Path(folder) / str(number))
        rows += lines
        first, refusals = first or found, refusals + ([] if refusal is None else [refusal])
    if first is not None:
        rows.append(guarded("time", checks.time, config, first, examples, arguments.tflops))
        rows.append(guarded("disk", checks.disk, config, first.written))
    for name, student in runs.items():
        if student.on_paths:
            rows.append(guarded(f"paths{name and ': '}{name}", checks.paths, student, examples))
    rows += gpu.rows(processes_asked(config.train))
    wrong = [
        f"{line.check}: {line.what}" for line in rows if line.verdict == NO and not line.check.startswith("memory")
    ]
    return rows, next(iter(refusals + wrong), None)


def main():
    arguments = parse()
    check_options(arguments)
    if arguments.gpus is not None:
        os.environ["NUM_PROCESSES"] = str(arguments.gpus)
    for name in [name for name in os.environ if name.startswith("MALLOC_")]:
        del os.environ[name]
    rows, refusal = table(arguments)
    unknown = [line for line in rows if line.check.startswith("memory") and line.verdict == UNKNOWN]
    verdict = "does not fit" if refusal else UNKNOWN if unknown else "fits"
    if arguments.json is not None:
        settings = {name: value for name, value in vars(arguments).items() if name != "json"}
        write_json(
            arguments.json,
            about()
            | {"settings": settings, "verdict": verdict, "refusal": refusal, "rows": [line.as_json() for line in rows]},
        )
    print(markdown([{"check": line.check, "verdict": line.verdict, "what": line.what} for line in rows]))
    if refusal:
        sys.exit(f"error: {refusal}")
    print(f"\n{verdict}")
    if unknown:
        sys.exit(COULD_NOT_TELL)


if __name__ == "__main__":
    exit_with_message(main)
