"""What is to be done of a study, in order, and how one cell is measured."""

import math
import time
from dataclasses import replace
from pathlib import Path

import torch

from cd4lm.config import require
from cd4lm.data.examples import end_ids
from cd4lm.data.rows import read_jsonl
from cd4lm.io import weights_fingerprint
from cd4lm.model.loading import load_for_inference
from evaluation.measure import measure, scorer
from evaluation.mechanism import mechanism
from evaluation.study import records
from evaluation.study.choice import choice, chosen, one_token, terms_from, terms_of
from evaluation.study.settings import Cell, StudyConfig, decoders_of, experiment_of, grid_of, is_trial, shaped, stepwise

HELD_OUT = {"gsm8k_numbers": "numbers"}  # the split of a data set that has none called test


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


def read_split(study: StudyConfig, cell: Cell, split: str, count: int) -> list[dict]:
    """The first so many problems of a cell's world. Raises ValueError if there are too few."""
    data = experiment_of(study, cell).data
    file = Path(data.dir) / f"{HELD_OUT.get(data.dataset, split) if split == 'test' else split}.jsonl"
    rows = read_jsonl(file)[:count]
    require(len(rows) == count, f"{file} holds {len(rows)} problems, the plan asks for {count}: lower `{split}`")
    return rows


def measured(
    study: StudyConfig, cell: Cell, subject: tuple, options: list, rows: list, budget: float = math.inf
) -> dict:
    """Documents of decoders by name, in their order and no further than the second that takes more than the budget."""
    how = {"batch_size": study.batch_size, "score": scorer(experiment_of(study, cell).data.dataset)}
    documents: dict[str, list[dict]] = {}
    for decoder in [o.decoder(subject[0].config, end_ids(subject[1])) for o in options]:
        documents[decoder.name] = measure(*subject, rows, decoder, label=decoder.name, **how)
        if sum(records.means(own)["nfe"] > budget for own in documents.values()) == 2:
            break
    return documents


def to_judge(study: StudyConfig, cell: Cell, found: dict) -> list[str]:
    """The names of the decoders that validation chooses for test, and of a teacher's one token per step."""
    points = records.points(found)
    terms = terms_from(study, points) if cell.seed is None else terms_of(study, cell.world)
    chosen = {name for measure in ("accuracy", "nfe") for name in choice(points, terms, measure) or ()}
    chosen |= {one_token(study)} if cell.seed is None else set()
    return sorted(chosen)


def measure_cell(study: StudyConfig, cell: Cell) -> dict:
    """A record's content: every decoder on validation; the chosen ones on test, and the mechanism, unless it is a trial."""
    folder, start = checkpoint_of(study, cell), time.monotonic()
    subject = load_for_inference(folder, getattr(torch, study.dtype))
    found = {"weights": weights_fingerprint(folder), "validation": {}, "test": {}, "mechanism": None}
    rows = read_split(study, cell, "validation", study.validation)
    budget = terms_of(study, cell.world).budget if is_trial(study, cell) else math.inf
    documents = measured(study, cell, subject, decoders_of(study, cell), rows, budget)
    found["validation"] = {name: records.means(own) for name, own in documents.items()}
    if not is_trial(study, cell):
        names = dict(zip(documents, decoders_of(study, cell), strict=True))
        rows_of_test = read_split(study, cell, "test", study.test)
        reported = measured(study, cell, subject, shaped(study, study.reported), rows_of_test)
        missing = [names[name] for name in to_judge(study, cell, found["validation"]) if name not in reported]
        documents = reported | measured(study, cell, subject, missing, rows_of_test)
        found |= {"test": {name: records.columns(own) for name, own in documents.items()}, "reported": list(reported)}
        found["mechanism"] = measure_mechanism(study, cell, subject, rows[: study.mechanism])
    return found | {"measuring_seconds": round(time.monotonic() - start, 1)}


def measure_mechanism(study: StudyConfig, cell: Cell, subject: tuple, rows: list[dict]) -> dict:
    """What mechanism.py measures of a cell's model on validation problems."""
    teacher = load_for_inference(experiment_of(study, cell).teacher, getattr(torch, study.dtype))
    one_token_each = replace(stepwise(study), stop_at_eos=False)
    score = scorer(experiment_of(study, cell).data.dataset)
    changes = {"steps": None, "confidence_threshold": study.mechanism_threshold, "stop_at_eos": True}
    looked = replace(one_token_each, **changes)
    return mechanism(subject, teacher, rows, looked, one_token_each, study.batch_size, score)
