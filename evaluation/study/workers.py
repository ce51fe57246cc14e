"""Cells in worker processes, a few at a time, each with a log of its own; one that fails does not stop the others."""

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tqdm import tqdm

from evaluation.study.settings import Cell, StudyConfig, folder_of, needed_cells

POLL = 0.5  # seconds


@dataclass
class Worker:
    """A cell being run."""

    cell: Cell
    process: subprocess.Popen
    log: IO
    file: Path


def start(study: StudyConfig, cell: Cell, command: list[str]) -> Worker:
    """Run a cell's command with one thread, its output in the cell's folder."""
    file = folder_of(study, cell) / "log.txt"
    file.parent.mkdir(parents=True, exist_ok=True)
    log = open(file, "a")  # noqa: SIM115, closed when the worker ends
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return Worker(cell, subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment), log, file)


def last_line(file: Path) -> str:
    """The last line of a log, which for our commands is the error."""
    lines = file.read_text(errors="replace").replace("\r", "\n").strip().splitlines()
    return lines[-1].strip() if lines else "no output"


def ready(study: StudyConfig, cell: Cell, open_cells: Sequence[Cell]) -> bool:
    """Whether nothing that this cell starts from is still to be made."""
    return not any(needed in open_cells for needed in needed_cells(study, cell))


def run_cells(study: StudyConfig, cells: Sequence[Cell], command: Callable[[Cell], list[str]]) -> dict[Cell, str]:
    """Run `command(cell)` for every cell, study.processes at a time; what went wrong, by cell."""
    waiting, running, failed = list(cells), [], {}
    with tqdm(total=len(waiting), desc="study", unit="cell") as bar:
        try:
            while waiting or running:
                for worker in [w for w in running if w.process.poll() is not None]:
                    worker.log.close()
                    running.remove(worker)
                    if worker.process.returncode:
                        failed[worker.cell] = f"{last_line(worker.file)} (see {worker.file})"
                    bar.update()
                open_cells = waiting + [w.cell for w in running]
                for cell in [c for c in waiting if ready(study, c, open_cells)][: study.processes - len(running)]:
                    waiting.remove(cell)
                    running.append(start(study, cell, command(cell)))
                names = ", ".join(worker.cell.name for worker in running)
                bar.set_postfix_str(names + (f"; {len(failed)} failed" if failed else ""), refresh=False)
                time.sleep(POLL)
        finally:
            for worker in running:
                worker.process.terminate()
                worker.process.wait()
                worker.log.close()
    return failed
