"""A study: every arm tuned alike in every world, students of many seeds, one envelope of decoders, and the page.

    python scripts/study.py configs/evidence.yaml [key=value ...]
    python scripts/study.py configs/evidence.yaml --cell NAME     # one cell again, compared with what is stored
    python scripts/study.py configs/evidence.yaml --report        # the page alone, from what is stored

What is stored is not made again, so the same command goes on after an interruption, also on another machine, and loses at
most the cells that ran. A name is that of a file among the records, without .json.gz.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from run_experiment import make_student, prepare
from tqdm import tqdm

from cd4lm.config import TERMINATED, CommandParser, exit_with_message, load, require
from cd4lm.io import provenance
from evaluation.study import records
from evaluation.study.settings import Cell, StudyConfig, words_of
from evaluation.study.work import all_cells, lock, make_cell, work

ROOT = Path(__file__).resolve().parents[1]
POLL = 2  # seconds
ONE_THREAD = {"OMP_NUM_THREADS": "1", "NUM_PROCESSES": "1"}  # the order of sums depends on their number


def parse() -> argparse.Namespace:
    parser = CommandParser(__doc__)
    parser.add_argument("config", help="YAML file, for instance configs/evidence.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace those of the file")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--cell", metavar="NAME", help="make one cell again and compare it with what is stored")
    what.add_argument("--report", action="store_true", help="write the page from what is stored")
    what.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments, more = parser.parse_known_args()
    # argparse takes no positional words after an option; overrides may stand anywhere.
    require(
        all("=" in word and not word.startswith("-") for word in more), f"{more} is no setting of the form key=value"
    )
    arguments.overrides += more
    return arguments


def train(study: StudyConfig, cell: Cell) -> None:
    """Make a cell's student; what its run needs besides the weights is deleted."""
    with lock(Path(study.output_dir) / "locks/prepare", wait=True):  # two cells may need the same data
        prepare(words_of(study, cell))
    try:
        make_student(words_of(study, cell), cell.name)
    except SystemExit as error:
        raise RuntimeError(f"training ended with status {error.code}") from error


def run_worker(study: StudyConfig) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    import torch

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    failed = work(study, lambda cell: train(study, cell), lambda what: print(f"== {what}", flush=True))
    sys.exit("\n".join(f"error: {cell.name}: {why}" for cell, why in failed.items()) or 0)


def run_study(study: StudyConfig, words: list[str]) -> None:
    """Everything that is missing, in worker processes, with one bar over all cells."""
    logs = Path(study.output_dir) / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    for cell in all_cells(study)[0][: len(study.worlds)]:
        with lock(Path(study.output_dir) / "locks/prepare", wait=True):
            prepare(words_of(study, cell))
    workers, files = [], []
    for i in range(study.processes):
        files.append(open(logs / f"worker-{i}.txt", "a"))  # noqa: SIM115, closed when the workers have ended
        command = [sys.executable, __file__, *words, "--worker"]
        workers.append(
            subprocess.Popen(command, stdout=files[-1], stderr=subprocess.STDOUT, env=os.environ | ONE_THREAD)
        )
    try:
        with tqdm(desc="study", unit="cell", smoothing=0.05) as bar:
            ended = False
            while not ended:
                ended = all(
                    worker.poll() is not None for worker in workers
                )  # before counting, so that the last one counts
                cells, bar.total = all_cells(study)
                stored = sum(records.read(study, cell) is not None for cell in cells)
                if bar.n == 0:
                    bar.initial = stored  # what was there before says nothing about the time left
                bar.update(stored - bar.n)
                time.sleep(0 if ended else POLL)
    finally:
        for worker, file in zip(workers, files, strict=True):
            worker.terminate()
            worker.wait()
            file.close()
    require(
        all(worker.returncode == 0 for worker in workers),
        f"some cells failed: see {logs}/worker-*.txt, mend what they name and give the same command again",
    )


def rerun(study: StudyConfig, name: str) -> bool:
    """Make one cell anew and print how it differs from the stored one; whether they agree."""
    cells = {cell.name: cell for cell in all_cells(study)[0]}
    require(name in cells, f"no cell is called {name!r}: use one of {', '.join(list(cells)[:20])}, ...")
    stored = records.read(study, cells[name])
    require(stored is not None, f"{name} is not stored: run the study first")
    again = replace(study, output_dir=f"{study.output_dir}/again")
    shutil.rmtree(Path(again.output_dir) / name, ignore_errors=True)
    made = make_cell(again, cells[name], lambda cell: train(again, cell), lambda what: print(f"== {what}", flush=True))
    found = records.differences(stored.content, {"cell": name, **made})
    where = stored.content["provenance"]["device"], provenance()["device"]
    print("\n".join(found) if found else f"{name}: trained and measured again, the same numbers in every measure")
    print(f"stored on {where[0]}, made again on {where[1]}" + ("" if where[0] == where[1] else ": digits may differ"))
    return not found


def main():
    os.chdir(ROOT)  # paths in configs are relative to the repository
    arguments = parse()
    words = [arguments.config, *arguments.overrides]
    study = load(StudyConfig, words[0], words[1:])
    if arguments.worker:
        return run_worker(study)
    if arguments.cell is not None:
        os.environ |= ONE_THREAD
        return sys.exit(0 if rerun(study, arguments.cell) else 1)
    if not arguments.report:
        run_study(study, words)
    from evaluation.study.page import write_page

    print(f"wrote {write_page(study, arguments.config)}")


if __name__ == "__main__":
    exit_with_message(main)
