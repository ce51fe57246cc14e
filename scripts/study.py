"""A study: every arm tuned alike in every world, students of many seeds, one envelope of decoders, and the page.

    python scripts/study.py configs/evidence.yaml [key=value ...]
    python scripts/study.py configs/evidence.yaml --cell NAME     # one cell again, compared with what is stored
    python scripts/study.py configs/evidence.yaml --report        # the page alone, from what is stored

What is stored is not made again, so the same command goes on after an interruption, also on another machine, and loses at
most the cells that ran. A name is that of a file among the records, without .json.gz.
"""

import argparse
import multiprocessing
import os
import shutil
import signal
import sys
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from dataclasses import replace
from pathlib import Path

import torch
from run_experiment import make_student, prepare
from tqdm import tqdm

from cd4lm.config import TERMINATED, CommandParser, exit_with_message, load, one_line, require
from cd4lm.io import provenance
from cd4lm.workers import cpu_pool
from evaluation.study import records
from evaluation.study.settings import Cell, StudyConfig, words_of
from evaluation.study.work import all_cells, make_cell

ROOT = Path(__file__).resolve().parents[1]
ONE_THREAD = {"OMP_NUM_THREADS": "1", "NUM_PROCESSES": "1"}  # the order of sums depends on their number
FAILURES = (ValueError, ArithmeticError, OSError, RuntimeError)  # of one cell; the others go on


def parse() -> argparse.Namespace:
    parser = CommandParser(__doc__)
    parser.add_argument("config", help="YAML file, for instance configs/evidence.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace those of the file")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--cell", metavar="NAME", help="make one cell again and compare it with what is stored")
    what.add_argument("--report", action="store_true", help="write the page from what is stored")
    arguments, more = parser.parse_known_args()
    # argparse takes no positional words after an option; overrides may stand anywhere.
    require(
        all("=" in word and not word.startswith("-") for word in more), f"{more} is no setting of the form key=value"
    )
    arguments.overrides += more
    return arguments


def stages(do: Callable[[list[str]], object], study: StudyConfig, cell: Cell) -> None:
    """Do what an experiment does before measuring, for a cell."""
    try:
        do(words_of(study, cell))
    except SystemExit as error:
        raise RuntimeError(f"a stage ended with status {error.code}") from error


def made(study: StudyConfig, cell: Cell) -> dict:
    """The content of a cell's record, made by this process with one thread."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    return make_cell(study, cell, lambda: stages(prepare if cell.seed is None else make_student, study, cell))


def made_by_worker(study: StudyConfig, cell: Cell) -> None:
    """Make a cell and store its record; what its stages say goes to a file of its own."""
    log = log_of(study, cell)
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    records.write(study, cell, made(study, cell))


def log_of(study: StudyConfig, cell: Cell) -> Path:
    return Path(study.output_dir) / "logs" / f"{cell.name}.txt"


def run_study(study: StudyConfig) -> None:
    """Everything that is missing, a cell per process, with one bar over all cells."""
    torch.set_num_threads(1)  # the workers are forks, which other threads do not survive
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    failed: dict[Cell, str] = {}
    running: dict[Future, Cell] = {}
    with cpu_pool(study.processes) as pool, tqdm(desc="study", unit="cell", smoothing=0.05) as bar:
        try:
            while True:
                cells, bar.total = all_cells(study)
                missing = [cell for cell in cells if records.read(study, cell) is None]
                bar.initial = bar.initial or len(cells) - len(
                    missing
                )  # what was there says nothing about the time left
                bar.update(len(cells) - len(missing) - bar.n)
                for cell in [c for c in missing if c not in (*failed, *running.values())]:
                    if len(running) == study.processes:
                        break
                    try:
                        stages(prepare, study, cell)
                        running[pool.submit(made_by_worker, study, cell)] = cell
                    except FAILURES as error:
                        failed[cell] = one_line(error)
                if not running:
                    break
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    cell, error = running.pop(future), future.exception()
                    if isinstance(error, FAILURES) and not isinstance(error, BrokenExecutor):
                        failed[cell] = f"{one_line(error)} (log: {log_of(study, cell)})"
                    elif error is not None:
                        raise error
        except BaseException:
            for worker in multiprocessing.active_children():
                worker.terminate()
            raise
    told = "\n".join(f"{cell.name}: {why}" for cell, why in failed.items())
    require(not failed, f"these cells failed; mend what they name and give the same command again\n{told}")


def rerun(study: StudyConfig, name: str) -> bool:
    """Make one cell anew and print how it differs from the stored one; whether they agree."""
    cells = {cell.name: cell for cell in all_cells(study)[0]}
    require(name in cells, f"no cell is called {name!r}: use one of {', '.join(list(cells)[:20])}, ...")
    stored = records.read(study, cells[name])
    require(stored is not None, f"{name} is not stored: run the study first")
    again = replace(study, output_dir=f"{study.output_dir}/again")
    shutil.rmtree(Path(again.output_dir) / name, ignore_errors=True)
    found = records.differences(stored.content, {"cell": name, **made(again, cells[name])})
    where = stored.content["provenance"]["device"], provenance()["device"]
    print("\n".join(found) if found else f"{name}: trained and measured again, the same numbers in every measure")
    print(f"stored on {where[0]}, made again on {where[1]}" + ("" if where[0] == where[1] else ": digits may differ"))
    return not found


def main():
    os.chdir(ROOT)  # paths in configs are relative to the repository
    arguments = parse()
    study = load(StudyConfig, arguments.config, arguments.overrides)
    os.environ |= ONE_THREAD
    if arguments.cell is not None:
        return sys.exit(0 if rerun(study, arguments.cell) else 1)
    if not arguments.report:
        run_study(study)
    from evaluation.study.page import write_page

    print(f"wrote {write_page(study, arguments.config)}")


if __name__ == "__main__":
    exit_with_message(main)
