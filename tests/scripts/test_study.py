"""A whole study on a random two-layer teacher: killed in the middle, resumed, one cell made again, its page read."""

import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from cd4lm.config import load
from cd4lm.data.tiny_task import World, make_row
from cd4lm.model.loading import load_for_inference
from evaluation.study import records
from evaluation.study.choice import chosen, terms_of
from evaluation.study.settings import Cell, StudyConfig, experiment_of, grid_of, mark_of, shaped
from evaluation.study.work import all_cells, measured
from scripts.study import main
from tests.conftest import ROOT
from tests.training.worlds import TRAIN, write_teacher_and_data

PLAN = {
    "worlds": {"w8": ["data.dir={folder}/{world}"]},
    "arms": {"dscd": [], "lambda0": ["dscd.initial_lambda=0", "dscd.final_lambda=0"]},
    "crossings": [
        {"arms": ["dscd"], "worlds": ["w8"], "seeds": [1, 2]},
        {"arms": ["lambda0"], "worlds": ["w8"], "seeds": [1]},
    ],
    "tuning": {"learning_rates": [0.001], "steps": [1], "seed": 9, "decoders": [{"steps": 4}]},
    "contrasts": [
        {"a": "dscd", "b": "lambda0", "question": "does it help?", "worlds": ["w8"], "main": True, "paired": True},
        {"a": "dscd", "b": "teacher", "question": "is it cheaper?", "worlds": ["w8"], "measure": "nfe"},
    ],
    "decoders": [{"steps": 4}, {"confidence_threshold": 0.9}, {"confidence_threshold": 0.5}],
    "reported": [{"confidence_threshold": 0.95}],
    "gen_length": 40,
    "block_length": 20,
    "batch_size": 8,
    "validation": 6,
    "test": 8,
    "mechanism": 4,
}


@pytest.fixture
def plan(tmp_path) -> Path:
    write_teacher_and_data(tmp_path)
    experiment = {
        "teacher": str(tmp_path / "teacher"),
        "output_dir": str(tmp_path / "unused"),
        "data": {"dataset": "tiny", "dir": "unused", "max_samples": 24},
        "format": {"answer_length": 40, "max_length": 128},
        "train": TRAIN | {"eval_every": 2},
    }
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump(experiment))
    tree = json.loads(json.dumps(PLAN).replace("{folder}", str(tmp_path / "data")))
    places = {"output_dir": "out", "records": "cells", "report": "results.md", "experiment": "experiment.yaml"}
    file = tmp_path / "plan.yaml"
    file.write_text(yaml.safe_dump(tree | {name: str(tmp_path / place) for name, place in places.items()}))
    return file


def start(plan: Path, *words: str) -> subprocess.Popen:
    """The command in a process group of its own, so that all of it can be killed at once."""
    command = [sys.executable, "scripts/study.py", str(plan), *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=ROOT, start_new_session=True, **pipes)


def stamps(folder: Path) -> dict[str, int]:
    """When every record was written."""
    return {str(file.relative_to(folder)): file.stat().st_mtime_ns for file in folder.rglob("*.json.gz")}


@pytest.mark.slow
def test_a_study_killed_in_the_middle_goes_on(plan, run_main):
    cells = plan.parent / "cells"
    process = start(plan)
    while len(stamps(cells)) < 2:
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = stamps(cells)
    assert "w8/teacher.json.gz" in before and len(before) < 6

    process = start(plan)
    text, _ = process.communicate()
    assert process.returncode == 0, text
    after, study = stamps(cells), load(StudyConfig, plan)
    assert before.items() <= after.items() and len(after) == 1 + 2 + 3  # nothing was made again
    assert "6/6" in text.replace(" ", "")
    for arm in study.arms:
        best = chosen(study, "w8", arm)
        seeds = study.seeds("w8", arm)
        made = [records.read(study, Cell("w8", arm, best.learning_rate, best.steps, seed)) for seed in seeds]
        assert all(len(r.right("cad, confidence_threshold=0.95")) == 8 and r.content["mechanism"] for r in made)
        assert all(len(r.validation) == 3 and 2 <= len(r.content["test"]) <= 5 for r in made)
        # A trial is measured with the plan's decoders for trials, and on no test problem.
        trial = records.read(study, best).content
        assert trial["test"] == {} and list(trial["validation"]) == ["fixed, steps=4"]
    record = records.read(study, Cell("w8")).content
    assert record["provenance"]["threads"] == 1 and record["test"]["fixed, steps=40"]["tokens"] >= 0
    page = (plan.parent / "results.md").read_text()
    assert "4 of 4 students and teachers are judged" in page and "not finished" not in page
    assert "| Q1.w8 | does it help? |" in page and page.count("| a number |") == 2
    assert sum(line.endswith("| yes |") for line in page.splitlines()) == 2
    assert {f.name for f in (plan.parent / "results").glob("*.png")} == {
        f"{name}.png" for name in ("gains", "envelopes", "mechanism", "calibration", "nfe")
    }

    # A clone has the records and not the problems, which are made again.
    shutil.rmtree(plan.parent / "data/w8")
    assert run_main(main, plan, "--report")[0] is None and (plan.parent / "results.md").read_text() == page

    # What a person writes for the page points at rows that it has.
    findings = plan.parent / "findings.md"
    findings.write_text("1. Nothing is decided by `Q1.w8`; `w8/dscd` is a number, `scripts/study.py` a program.")
    assert run_main(main, plan, f"findings={findings}", "--report")[0] is None
    assert "1. Nothing is decided by" in (plan.parent / "results.md").read_text()
    findings.write_text("1. A row of another study, `Q7.w8`.")
    message, _ = run_main(main, plan, f"limits={findings}", "--report")
    assert "findings.md points at Q7.w8, which no table has" in message

    # One number is changed before the cell is made again, so that both answers are seen: it differs, all others agree.
    best = chosen(study, "w8", "dscd")
    file = cells / f"w8/dscd/rate-0.001_steps-{best.steps}_seed-1.json.gz"
    stored = json.loads(gzip.decompress(file.read_bytes()))
    stored["test"]["cad, confidence_threshold=0.95"]["tokens"] += 1
    file.write_bytes(gzip.compress(json.dumps(stored).encode()))
    code, text = run_main(main, plan, "--cell", f"w8/dscd/rate-0.001_steps-{best.steps}_seed-1")
    told = [line for line in text.splitlines() if line.startswith(("validation of", "test of", "mechanism of"))]
    assert code == "1" and len(told) == 1 and "test of cad, confidence_threshold=0.95" in told[0], text


def test_a_world_a_record_and_a_rule(plan):
    """The budget and the target are the teacher's; the rule takes accuracy first, then forward passes, rate, steps."""
    study = load(StudyConfig, plan, ["tuning.steps=[1, 2]"])
    assert terms_of(study, "w8") is None and chosen(study, "w8", "dscd") is None
    shown = {"fixed, steps=40": (0.9, 40), "cad, confidence_threshold=0.9": (0.89, 20), "fixed, steps=4": (0.2, 4)}
    points = {name: {"accuracy": y, "nfe": x} for name, (y, x) in shown.items()}
    records.write(study, Cell("w8"), {"validation": points, "test": {}})
    assert vars(terms_of(study, "w8")) == pytest.approx({"target": 0.89, "budget": 10})
    for steps, accuracy in ((1, 0.3), (2, 0.4)):
        better = points | {"fixed, steps=4": {"accuracy": accuracy, "nfe": 4}}
        assert chosen(study, "w8", "dscd") is None
        records.write(study, Cell("w8", "dscd", 0.001, steps, 9), {"validation": better, "test": {}})
    assert chosen(study, "w8", "dscd").steps == 2
    assert len(all_cells(study)[0]) == 1 + 4 + 2 and all_cells(study)[1] == 8


def test_more_of_one_arms_grid(plan):
    """Lengths that an arm tries besides meet every rate, points are tried as they are, and each once."""
    tuning = ["tuning.learning_rates=[0.001, 0.01]", "tuning.more_steps={dscd: [2]}"]
    study = load(StudyConfig, plan, [*tuning, "tuning.more_points={dscd: [[0.01, 4], [0.01, 2]]}"])

    def grid(arm: str) -> list:
        return [(cell.learning_rate, cell.steps) for cell in grid_of(study, "w8", arm)]

    assert grid("dscd") == [(0.001, 1), (0.001, 2), (0.01, 1), (0.01, 2), (0.01, 4)]
    assert grid("lambda0") == [(0.001, 1), (0.01, 1)]


def test_settings_from_another_world(plan):
    """A world that takes its settings from another has no trials of its own, and the choice that was made there."""
    worlds = ["worlds={w8: [data.dir=a], other: [data.dir=b]}", "tuning.settings_from={other: w8}"]
    crossed = ["crossings=[{arms: [dscd, lambda0], worlds: [w8, other], seeds: [1]}]"]
    study = load(StudyConfig, plan, worlds + crossed)
    points = {"fixed, steps=40": {"accuracy": 0.9, "nfe": 40}}
    for cell in (Cell("w8"), Cell("w8", "dscd", 0.001, 1, 9)):
        records.write(study, cell, {"validation": points, "test": {}})
    assert chosen(study, "other", "dscd") == Cell("other", "dscd", 0.001, 1, 9)
    assert chosen(study, "other", "lambda0") is None
    cells, total = all_cells(study)
    assert [c.seed for c in cells if c.world == "other"] == [None, 1] and total == 2 + 2 + 4


def test_a_trial_stops_beyond_the_budget(plan):
    """Decoders are measured in their order until two of them take more than the budget."""
    study = load(StudyConfig, plan)
    cell = Cell("w8", "dscd", 0.001, 1, 9)
    subject = load_for_inference(experiment_of(study, cell).teacher)
    rows = [make_row("validation", i, 0, World()) for i in range(2)]
    decoders = shaped(study, study.decoders)
    names = list(measured(study, cell, subject, decoders, rows, 1000))
    assert len(names) == 3 and list(measured(study, cell, subject, decoders, rows, 0)) == names[:2]


def test_a_changed_plan_makes_a_record_again(plan):
    study, cell = load(StudyConfig, plan), Cell("w8", "dscd", 0.001, 1, 9)
    other = load(StudyConfig, plan, ["base=[dscd.temperature=3]"])
    moved = load(StudyConfig, plan, ["output_dir=elsewhere", "processes=1", "test=7"])
    assert mark_of(study, cell) == mark_of(moved, cell) != mark_of(other, cell)
    records.write(study, cell, {"validation": {}, "test": {}})
    assert records.read(study, cell) is not None and records.read(other, cell) is None
    assert experiment_of(study, cell).train.seed == 9 and experiment_of(study, cell).train.max_steps == 1


class TestMistakes:
    def test_a_teacher_that_is_not_there(self, plan, refused):
        refused(main, "teachers/nosuch", plan, "worlds={w8: [teacher=checkpoints/teachers/nosuch]}")
        assert not (plan.parent / "out").exists()

    def test_a_cell_that_is_not_there(self, plan, refused):
        refused(main, "no cell is called 'w8/no': use one of w8/teacher, w8/dscd/", plan, "--cell", "w8/no")

    def test_a_cell_that_is_not_stored(self, plan, refused):
        refused(main, "w8/teacher is not stored: run the study first", plan, "--cell", "w8/teacher")

    def test_a_report_of_nothing(self, plan, refused):
        refused(main, "no world's teacher is measured yet: run the study first", plan, "--report")

    def test_a_damaged_record(self, plan, refused):
        file = plan.parent / "cells/w8/teacher.json.gz"
        file.parent.mkdir(parents=True)
        file.write_bytes(b"cut")
        refused(main, "teacher.json.gz is damaged", plan, "--report")

    @pytest.mark.parametrize(
        "word,message",
        [
            ("problem=3", "unknown key problem"),
            ("tuning.seed=1", "tuning.seed must be none of the seeds"),
            ("crossings=[{arms: [nosuch], worlds: [w8], seeds: [1]}]", "no arm is called nosuch: see `arms`"),
            ("crossings=[{arms: [dscd], worlds: [w9], seeds: [1]}]", "no world is called w9: see `worlds`"),
            ("crossings=[{arms: [dscd], worlds: [w8], seeds: [1]}]", "lambda0 is not crossed with w8; see `crossings`"),
            ("decoders=[{treshold: 1}]", "unknown key decoders.0.treshold"),
            ("tuning.more_points={nosuch: [[0.01, 4]]}", "no arm is called nosuch: see `arms`"),
            ("tuning.settings_from={w8: w9}", "no world is called w9: see `worlds`"),
            (
                "worlds={w8: [], b: []} tuning.settings_from={w8: b}",
                "tuning.settings_from.w8: dscd is not tuned in b; see `crossings`",
            ),
            ("mechanism=7", "mechanism=7 must be at most validation=6"),
        ],
    )
    def test_a_plan_that_cannot_be(self, plan, refused, word, message):
        refused(main, message, plan, *re.split(" (?=tuning)", word))


@pytest.mark.parametrize("name", ["evidence", "evidence_gsm8k_numbers"])
def test_the_plans_of_the_repository(name):
    """Every cell's experiment is one that training accepts, and every main contrast has seeds enough for a verdict."""
    study = load(StudyConfig, ROOT / f"configs/{name}.yaml")
    for world, arm in study.pairs():
        experiment_of(study, Cell(world, arm, 1e-3, 60, 1))
    for contrast in study.contrasts:
        for world in contrast.worlds if contrast.main else ():
            assert all(arm == "teacher" or len(study.seeds(world, arm)) >= 5 for arm in (contrast.a, contrast.b))
