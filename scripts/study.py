"""A grid of training variants x seeds x decoders: train, measure, time, and write the results page.

    python scripts/study.py configs/study.yaml [key=value ...]
    python scripts/study.py configs/study.yaml --cell dscd/seed-1     # one cell again, compared with what is stored
    python scripts/study.py configs/study.yaml --report               # the page alone, from what is stored

What is stored is not made again, so the same command goes on after an interruption and loses at most the cells that ran.
"""

import argparse
import fcntl
import json
import os
import shutil
import signal
import sys
from pathlib import Path

import torch
from run_experiment import make_student, prepare
from tqdm import tqdm

from cd4lm.config import TERMINATED, CommandParser, exit_with_message, load, require
from cd4lm.io import provenance, write_json
from cd4lm.model.checkpoint import check_folder
from evaluation.study.compare import differences
from evaluation.study.measures import MEASURES, measure_cell, missing
from evaluation.study.page import write_page
from evaluation.study.settings import (
    Cell,
    StudyConfig,
    cell_named,
    cells_of,
    experiment_of,
    folder_of,
    needed_cells,
    training_settings,
)
from evaluation.study.store import CellFiles, read_problems, weights_digest
from evaluation.study.subject import Subject
from evaluation.study.timing import measure_timing
from evaluation.study.workers import run_cells

ROOT = Path(__file__).resolve().parents[1]


def parse() -> argparse.Namespace:
    parser = CommandParser(__doc__)
    parser.add_argument("config", help="YAML file, for instance configs/study.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace those of the file")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--cell", metavar="NAME", help="run one cell again and compare, for instance dscd/seed-1")
    what.add_argument("--report", action="store_true", help="write the page from what is stored")
    what.add_argument("--worker", metavar="NAME", help=argparse.SUPPRESS)
    arguments, more = parser.parse_known_args()
    # argparse takes no positional words after an option; overrides may stand anywhere.
    require(
        all("=" in word and not word.startswith("-") for word in more), f"{more} is no setting of the form key=value"
    )
    arguments.overrides += more
    return arguments


def finish_cell(files: CellFiles) -> None:
    """Train and measure what is missing of a cell; a second process at the same cell waits and then finds it done."""
    # One thread whoever starts the cell, since the order of sums, and with it the last digits, depends on their number.
    os.environ |= {"OMP_NUM_THREADS": "1", "NUM_PROCESSES": "1"}
    torch.set_num_threads(1)
    files.folder.mkdir(parents=True, exist_ok=True)
    with open(files.folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # given back by the system however the process ends
        if not files.trained():
            make_student(training_settings(files.study, files.cell, files.folder), files.cell.name)
        measure_cell(files, lambda name: print(f"== {name}", flush=True))


def run_worker(study: StudyConfig, name: str) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    finish_cell(CellFiles.of(study, cell_named(study, name)))


def rerun(study: StudyConfig, name: str) -> bool:
    """Make one cell anew beside the stored one and print how the two differ; whether they agree."""
    cell = cell_named(study, name)
    for needed in needed_cells(study, cell):
        finish_cell(CellFiles.of(study, needed))
    stored = CellFiles.of(study, cell)
    if not stored.trained() or missing(stored):
        finish_cell(stored)
        print(f"{name}: nothing complete was stored, so this run is now stored in {stored.folder}")
        return True
    again = CellFiles.of(study, cell, Path(study.output_dir) / "reruns" / cell.name)
    shutil.rmtree(again.folder, ignore_errors=True)
    finish_cell(again)
    found = differences(stored, again)
    print("\n".join(found) if found else f"{name}: trained and measured again, the same numbers in every measure")
    return not found


def time_cells(study: StudyConfig) -> None:
    """The timing of all cells of the first seed, in one process; kept as long as the same weights are there."""
    cells = [c for c in cells_of(study) if c.seed in (None, study.seeds[0]) and CellFiles.of(study, c).trained()]
    weights = {cell.name: weights_digest(CellFiles.of(study, cell).checkpoint) for cell in cells}
    file = Path(study.output_dir) / "timing.json"
    if file.is_file() and json.loads(file.read_text())["weights"] == weights:
        return
    rows = read_problems(study)
    subjects = {cell: Subject.load(study, CellFiles.of(study, cell).checkpoint, rows) for cell in cells}
    with tqdm(total=study.timed_problems, desc="timing", unit="problem") as bar:
        runs = measure_timing(subjects, bar.update)
    write_json(file, {"weights": weights, "runs": runs, "provenance": provenance()})


def run_study(study: StudyConfig, words: list[str]) -> dict[Cell, str]:
    """Everything that is missing; the cells that failed, with why."""
    for cell in cells_of(study):
        experiment = experiment_of(study, cell)
        check_folder(experiment.teacher)
        CellFiles.of(study, cell).trained()  # stops here if a stored student was trained otherwise
    for cell in cells_of(study):  # one after another, so that no two cells prepare the same folder
        if cell.seed in (None, study.seeds[0]):
            prepare(training_settings(study, cell, folder_of(study, cell)))
    files = {cell: CellFiles.of(study, cell) for cell in cells_of(study)}
    todo = [cell for cell in files if not files[cell].trained() or missing(files[cell])]
    print(f"{len(files) - len(todo)} of {len(files)} cells are done, {len(MEASURES)} measures each", flush=True)
    failed = run_cells(study, todo, lambda c: [sys.executable, __file__, *words, "--worker", c.name])
    if not failed:
        time_cells(study)
    return failed


def main():
    os.chdir(ROOT)  # paths in configs are relative to the repository
    arguments = parse()
    words = [arguments.config, *arguments.overrides]
    study = load(StudyConfig, words[0], words[1:])
    if arguments.worker is not None:
        return run_worker(study, arguments.worker)
    if arguments.cell is not None:
        return sys.exit(0 if rerun(study, arguments.cell) else 1)
    failed = {} if arguments.report else run_study(study, words)
    for cell, why in failed.items():
        print(f"{cell.name} failed: {why}", file=sys.stderr, flush=True)
    print(f"wrote {write_page(study, arguments.config)}")
    require(not failed, f"{len(failed)} cells failed; mend what they name and run the same command again")


if __name__ == "__main__":
    exit_with_message(main)
