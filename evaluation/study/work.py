"""What is to be done of a study, in order, and how one cell is measured.

Any number of processes work on one plan: each takes the next cell that is neither stored nor taken. A lock that the system
gives back when its holder ends keeps two from the same cell.
"""

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from cd4lm.config import one_line, require
from cd4lm.data import tiny_task
from cd4lm.data.examples import end_ids
from cd4lm.data.rows import read_jsonl
from cd4lm.decoding import DecodingOptions
from cd4lm.io import weights_fingerprint
from cd4lm.model.loading import load_for_inference
from evaluation.measure import measure
from evaluation.study import records
from evaluation.study.choice import chosen
from evaluation.study.mechanism import mechanism
from evaluation.study.settings import Cell, StudyConfig, decoders_of, experiment_of, grid_of

POLL = 2  # seconds


def checkpoint_of(study: StudyConfig, cell: Cell) -> Path:
    experiment = experiment_of(study, cell)
    return Path(experiment.teacher if cell.seed is None else f"{experiment.output_dir}/student")


def cells_to_tune(study: StudyConfig) -> list[Cell]:
    """Every world's teacher, then the grid of every arm in every world, in the order of the plan."""
    teachers = [Cell(world) for world in dict.fromkeys(world for world, _ in study.pairs())]
    return teachers + [cell for world, arm in study.pairs() for cell in grid_of(study, world, arm)]


def cells_to_judge(study: StudyConfig, world: str, arm: str) -> list[Cell] | None:
    """An arm's chosen settings with every seed; None as long as its grid is not complete."""
    best = chosen(study, world, arm)
    return None if best is None else [replace(best, seed=seed) for seed in study.seeds(world, arm)]


def all_cells(study: StudyConfig) -> tuple[list[Cell], int]:
    """The cells that are known by now, and how many there will be in all."""
    cells, later = cells_to_tune(study), 0
    for world, arm in study.pairs():
        judged = cells_to_judge(study, world, arm)
        later += len(study.seeds(world, arm)) if judged is None else 0
        # A pair is finished before the next one begins, so that a study cut short still says something.
        cells += judged or []
    order = {pair: i for i, pair in enumerate(study.pairs())}
    cells.sort(key=lambda cell: order.get((cell.world, cell.arm), -1))
    return cells, len(cells) + later


@contextmanager
def lock(file: Path, wait: bool) -> Iterator[bool]:
    """Hold a lock file; whether it could be had. The system gives it back however the process ends."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True


def read_split(study: StudyConfig, cell: Cell, split: str, count: int) -> list[dict]:
    """The first so many problems of a cell's world. Raises ValueError if there are too few."""
    file = Path(experiment_of(study, cell).data.dir) / f"{split}.jsonl"
    rows = read_jsonl(file)[:count]
    require(len(rows) == count, f"{file} holds {len(rows)} problems, the plan asks for {count}: lower `{split}`")
    return rows


def measure_cell(study: StudyConfig, cell: Cell, note: Callable[[str], None]) -> dict:
    """A record's content: every decoder on validation; on test, and the mechanism, unless the cell is for tuning."""
    folder = checkpoint_of(study, cell)
    subject, start = load_for_inference(folder), time.monotonic()
    splits = {"validation": read_split(study, cell, "validation", study.validation)}
    if cell.seed != study.tuning.seed:
        splits["test"] = read_split(study, cell, "test", study.test)
    found = {"weights": weights_fingerprint(folder), "validation": {}, "test": {}, "mechanism": None}
    for split, rows in splits.items():
        note(split)
        for options in decoders_of(study):
            decoder = options.decoder(subject[0].config, end_ids(subject[1]))
            how = {"batch_size": study.batch_size, "score": tiny_task.score, "label": decoder.name}
            documents = measure(*subject, rows, decoder, **how)
            found[split][decoder.name] = (
                records.means(documents) if split == "validation" else records.columns(documents)
            )
    if "test" in splits:
        note("mechanism")
        shared = {"gen_length": study.gen_length, "block_length": study.block_length, "stop_at_eos": False}
        teacher = load_for_inference(experiment_of(study, cell).teacher)
        rows = splits["validation"][: study.mechanism]
        looked = DecodingOptions.parse(
            shared | {"confidence_threshold": study.mechanism_threshold, "stop_at_eos": True}
        )
        one_token = DecodingOptions.parse(shared | {"steps": study.gen_length})
        found["mechanism"] = mechanism(subject, teacher, rows, looked, one_token, study.batch_size)
    return found | {"measuring_seconds": round(time.monotonic() - start, 1)}


def finish_cell(study: StudyConfig, cell: Cell, train: Callable[[Cell], None], note: Callable[[str], None]) -> None:
    """Train and measure a cell."""
    start = time.monotonic()
    if cell.seed is not None:
        note("training")
        train(cell)
    seconds = round(time.monotonic() - start, 1)
    records.write(study, cell, measure_cell(study, cell, note) | {"training_seconds": seconds})


def work(study: StudyConfig, train: Callable[[Cell], None], note: Callable[[str], None]) -> dict[Cell, str]:
    """Finish cells until none is left; those that failed here, with why."""
    locks, failed = Path(study.output_dir) / "locks", {}
    while True:
        cells, total = all_cells(study)
        todo = [cell for cell in cells if records.read(study, cell) is None]
        if not set(todo) - failed.keys() and (total == len(cells) or failed):
            return failed
        taken = False
        for cell in todo:
            if cell in failed:
                continue
            with lock(locks / cell.name.replace("/", "__"), wait=False) as mine:
                if mine and records.read(study, cell) is None:
                    taken = True
                    try:
                        finish_cell(study, cell, train, lambda what, cell=cell: note(f"{cell.name}: {what}"))
                    except (ValueError, ArithmeticError, OSError, RuntimeError) as error:
                        failed[cell] = one_line(error)
                    break
        if not taken:
            time.sleep(POLL)  # all that is left is being done by others, or waits for what they do
