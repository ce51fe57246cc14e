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
import time
from dataclasses import replace
from multiprocessing.connection import wait
from pathlib import Path

import torch
from run_experiment import prepare
from tqdm import tqdm

from cd4lm.config import TERMINATED, CommandParser, add_config, exit_with_message, load, one_line, require
from cd4lm.io import ROOT, provenance
from cd4lm.model.loading import load_config
from evaluation.study import records
from evaluation.study.choice import terms_of
from evaluation.study.settings import TEACHER, Cell, StudyConfig, experiment_of, words_of
from evaluation.study.work import all_cells, measure_cell


def parse() -> argparse.Namespace:
    parser = CommandParser(__doc__)
    add_config(parser)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--cell", metavar="NAME", help="make one cell again and compare it with what is stored")
    what.add_argument("--report", action="store_true", help="write the page from what is stored")
    return parser.parse_intermixed_args()


def prepared(study: StudyConfig, cell: Cell) -> None:
    """See to the data and the paths that a cell needs."""
    try:
        prepare(words_of(study, cell))
    except SystemExit as error:
        raise RuntimeError(f"a stage before training ended with status {error.code}") from error


def made(study: StudyConfig, cell: Cell) -> dict:
    """Train and measure a cell in this process with one thread: the content of its record."""
    from cd4lm.training.train import train  # seconds, which a help text need not wait for

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    config, start = experiment_of(study, cell), time.monotonic()
    if cell.seed is not None and not (Path(config.output_dir) / "student").is_dir():
        train(config)
    return {"training_seconds": round(time.monotonic() - start, 1), **measure_cell(study, cell)}


def log_of(study: StudyConfig, cell: Cell) -> Path:
    return Path(study.output_dir) / "logs" / f"{cell.name}.txt"


def finish(study: StudyConfig, cell: Cell) -> None:
    """Make a cell and store its record, as a process whose output is the cell's log."""
    log = log_of(study, cell)
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a") as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
    exit_with_message(lambda: records.write(study, cell, made(study, cell)))


def run_study(study: StudyConfig) -> None:
    """Everything that is missing, each cell in a process of its own, with one bar over all of them."""
    import cd4lm.training.train  # noqa: F401, before the forks, which are spared it

    for world in study.worlds:
        load_config(experiment_of(study, Cell(world)).teacher)  # names one that is missing before anything is made
    torch.set_num_threads(1)  # other threads do not survive a fork, of which every cell is one
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    fork, running, failed = multiprocessing.get_context("fork"), {}, {}
    tqdm.monitor_interval = 0  # its thread's lock could be held while a cell is forked
    with tqdm(desc="study", unit="cell", smoothing=0.05, miniters=1) as bar:
        try:
            while True:
                cells, bar.total = all_cells(study)
                missing = [cell for cell in cells if records.read(study, cell) is None]
                if not bar.n:
                    bar.initial = len(cells) - len(missing)  # what was there before says nothing about the time left
                bar.update(len(cells) - len(missing) - bar.n)
                waiting = [cell for cell in missing if cell not in running.values() and cell not in failed]
                waiting = [cell for cell in waiting if cell.arm == TEACHER or terms_of(study, cell.world)]
                if waiting and len(running) < study.processes:
                    try:
                        prepared(study, waiting[0])
                    except (ValueError, OSError, RuntimeError) as error:
                        failed[waiting[0]] = one_line(error)
                        continue
                    process = fork.Process(target=finish, args=(study, waiting[0]))
                    process.start()
                    running[process] = waiting[0]
                elif running:
                    wait([process.sentinel for process in running])
                    for process in [p for p in running if p.exitcode is not None]:
                        cell = running.pop(process)
                        if process.exitcode:
                            failed[cell] = f"ended with status {process.exitcode}, see {log_of(study, cell)}"
                else:
                    break
        finally:
            for process in running:
                process.terminate()
                process.join()
    why = "; ".join(f"{cell.name} {reason}" for cell, reason in failed.items())
    require(not failed, f"{why}; mend it and give the same command again")


def rerun(study: StudyConfig, name: str) -> bool:
    """Make one cell anew and print how it differs from the stored one; whether they agree."""
    cells = {cell.name: cell for cell in all_cells(study)[0]}
    require(name in cells, f"no cell is called {name!r}: use one of {', '.join(list(cells)[:20])}, ...")
    stored = records.read(study, cells[name])
    require(stored is not None, f"{name} is not stored: run the study first")
    again = replace(study, output_dir=f"{study.output_dir}/again")
    shutil.rmtree(Path(again.output_dir) / name, ignore_errors=True)
    prepared(again, cells[name])
    found = records.differences(stored.content, {"cell": name, **made(again, cells[name])})
    where = stored.content["provenance"]["device"], provenance()["device"]
    print("\n".join(found) if found else f"{name}: trained and measured again, the same numbers in every measure")
    print(f"stored on {where[0]}, made again on {where[1]}" + ("" if where[0] == where[1] else ": digits may differ"))
    return not found


def main():
    os.chdir(ROOT)  # paths in configs are relative to the repository
    arguments = parse()
    study = load(StudyConfig, arguments.config, arguments.overrides)
    os.environ |= {"OMP_NUM_THREADS": "1", "NUM_PROCESSES": "1"}  # the order of sums depends on their number
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # the other check starts CUDA, which no fork could use any more
    if arguments.cell is not None:
        return sys.exit(0 if rerun(study, arguments.cell) else 1)
    if not arguments.report:
        run_study(study)
    for world in (world for world in study.worlds if terms_of(study, world)):
        prepared(study, Cell(world))  # a clone has the records, and makes the problems again
    from evaluation.study.page import write_page

    print(f"wrote {write_page(study, arguments.config)}")


if __name__ == "__main__":
    exit_with_message(main)
