"""A small study: random models with the embedded tokenizer, and hand-made records of cells."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from cd4lm.data.tiny_task import make_row
from cd4lm.data.tiny_tokenizer import build_tokenizer
from evaluation.study.measures import summarise
from evaluation.study.results import Results
from evaluation.study.settings import Cell, Contrast, StudyConfig, cells_of
from evaluation.study.subject import Subject
from tests.conftest import random_model

PROBLEMS = 200


def study(**changes) -> StudyConfig:
    """Two main variants with three seeds and one exploratory variant."""
    config = StudyConfig(
        experiment="configs/tiny.yaml",
        output_dir="outputs/none",
        variants={"a": (), "b": (), "c": ()},
        main=("a", "b"),
        contrasts=(
            Contrast("a", "b", "a is better", "accuracy_at_nfe", main=True),
            Contrast("a", "teacher", "a is faster", "nfe", main=True),
            Contrast("c", "a", "c forgets", "nll"),
        ),
        problems=PROBLEMS,
        subset=20,
        held_out=20,
        transfer_problems=20,
        thresholds=(0.9, 0.7),
        fixed_steps=(10,),
        headline=0.9,
        resamples=400,
    )
    return replace(config, **changes)


def subject(config: StudyConfig, rows: int = 6, **changes) -> Subject:
    tokenizer = build_tokenizer()
    ids = {"mask_token_id": tokenizer.mask_token_id, "eos_token_id": tokenizer.eos_token_id}
    model = random_model(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **ids, **changes)
    return Subject(config, model, tokenizer, [make_row("test", i, 42) for i in range(rows)])


def decoder(family: str, setting: float, accuracy: float, nfe: float, seed: int, n: int) -> dict:
    order = np.random.default_rng(seed).permutation(n)
    right = (order < accuracy * n).astype(int).tolist()
    made = {"problems": {"right": right, "nfe": [nfe] * n, "length": [20] * n}, "seconds": 1.0}
    return made | {"family": family, "setting": setting} | summarise(made)


def records(accuracy: float, nfe: float, nll: float, seed: int, teacher: bool, n: int = PROBLEMS) -> dict[str, dict]:
    """A cell whose CAD at 0.9 has this accuracy and NFE, and at 0.7 ten points less with four fifths of the NFE."""
    found = {
        "CAD-0.9": decoder("CAD", 0.9, accuracy, nfe, seed, n),
        "CAD-0.7": decoder("CAD", 0.7, accuracy - 0.1, 0.8 * nfe, seed, n),
        "fixed-10": decoder("fixed", 10, accuracy - 0.3, 9.0, seed, n),
    }
    if teacher:
        found["fixed-40"] = decoder("fixed", 40, 0.95, 35.0, seed, n)
    counts = {"tokens": [20] * 20, "confident": [10] * 20, "wrong": [4] * 20, "confident_wrong": [1] * 20}
    shapes = {"canvas 40, blocks of 20": found["CAD-0.9"], "canvas 60, blocks of 20": found["CAD-0.7"]}
    records = {
        "frontier": {"decoders": found},
        "calibration": {"thresholds": {tau: {"problems": counts} for tau in ("0.9", "0.7")}},
        "forgetting": {"problems": {"nll": [nll] * 20, "wordings": [[1] * 8 + [5]] * 20}},
        "transfer": {
            "shapes": {name: {"problems": {k: v[:20] for k, v in c["problems"].items()}} for name, c in shapes.items()}
        },
        "states": {"problems": {"states": [10] * 20, "same_tokens": [9] * 20, "on_path": [3] * 20}},
    }
    own = {
        "provenance": {"commit": "0123456789", "device": "none", "threads": 1, "versions": {"torch": "2"}},
        "seconds": 1.0,
    }
    return {name: record | own for name, record in records.items()}


def results(
    config: StudyConfig, levels: dict[str, tuple[float, float, float]], leave_out: tuple[str, ...] = ()
) -> Results:
    """Hand-made cells of every variant: (accuracy, NFE, NLL), the accuracy half a point up or down with the seed."""
    made = {}
    for cell in cells_of(config):
        if cell.name not in leave_out:
            accuracy, nfe, nll = levels[cell.variant]
            shift = 0.005 * ((cell.seed or 2) - 2)
            made[cell] = records(accuracy + shift, nfe, nll, 0, cell == Cell("teacher"))
    return Results(config, made)


def write_data(folder: Path, rows: int) -> None:
    """The embedded task as scripts/prepare_data.py leaves it, with few rows."""
    folder.mkdir()
    for split, count in (("train", 24), ("validation", 8), ("test", rows)):
        lines = [json.dumps(make_row(split, i, 42)) + "\n" for i in range(count)]
        (folder / f"{split}.jsonl").write_text("".join(lines))
    (folder / "manifest.json").write_text(json.dumps({"dataset": "tiny", "answers": "data"}))
