"""A whole study on a random two-layer teacher: killed in the middle, resumed, one cell run again."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from cd4lm.config import load
from evaluation.study.compare import differences
from evaluation.study.settings import Cell, StudyConfig
from evaluation.study.store import CellFiles
from scripts.study import main
from tests.conftest import ROOT
from tests.evaluation.study_world import write_data
from tests.training.worlds import TRAIN, write_teacher_and_data

STUDY = {
    "variants": {"dscd": [], "lambda0": ["dscd.initial_lambda=0", "dscd.final_lambda=0"]},
    "contrasts": [{"a": "dscd", "b": "lambda0", "claim": "it helps", "measure": "accuracy_at_nfe", "main": True}],
    "seeds": [1],
    "problems": 8,
    "subset": 4,
    "held_out": 4,
    "nll_samples": 2,
    "transfer_problems": 4,
    "transfer_block_lengths": [10],
    "timed_problems": 1,
    "batch_size": 8,
    "thresholds": [0.5],
    "fixed_steps": [4],
    "headline": 0.5,
    "resamples": 50,
}


@pytest.fixture
def plan(tmp_path) -> Path:
    write_teacher_and_data(tmp_path)
    write_data(tmp_path / "problems", 8)
    experiment = {
        "teacher": str(tmp_path / "teacher"),
        "output_dir": str(tmp_path / "unused"),
        "data": {"dataset": "tiny", "dir": str(tmp_path / "problems")},
        "format": {"answer_length": 40, "max_length": 128},
        "train": TRAIN | {"max_steps": 2, "eval_every": 2},
    }
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump(experiment))
    own = {"experiment": str(tmp_path / "experiment.yaml"), "output_dir": str(tmp_path / "out")}
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(STUDY | own | {"report": str(tmp_path / "results.md")}))
    return file


def start(plan: Path, *words: str) -> subprocess.Popen:
    """The command in a process group of its own, so that all of it can be killed at once."""
    command = [sys.executable, "scripts/study.py", str(plan), *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=ROOT, start_new_session=True, **pipes)


def stamps(folder: Path) -> dict[str, int]:
    """When every measure and every student was written."""
    files = [*folder.rglob("measures/*.json"), *folder.rglob("student/model.safetensors")]
    return {str(file.relative_to(folder)): file.stat().st_mtime_ns for file in files}


@pytest.mark.slow
def test_a_study_killed_in_the_middle_goes_on(plan, run_main):
    out = plan.parent / "out"
    process = start(plan)
    while not (out / "dscd/seed-1/student").is_dir():
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = stamps(out)
    assert (
        "dscd/seed-1/student/model.safetensors" in before and "lambda0/seed-1/student/model.safetensors" not in before
    )
    assert sum(name.startswith("teacher") for name in before) == 5

    process = start(plan, "processes=2")
    text, _ = process.communicate()
    assert process.returncode == 0, text
    after = stamps(out)
    assert before.items() <= after.items()  # nothing that was there was made again
    assert len(after) == 5 + 2 * (5 + 1)
    record = json.loads((out / "lambda0/seed-1/measures/frontier.json").read_text())
    assert record["config"]["dscd"]["initial_lambda"] == 0 and record["config"]["train"]["seed"] == 1
    assert record["provenance"]["threads"] == 1 and len(record["provenance"]["commit"]) >= 7
    page = (plan.parent / "results.md").read_text()
    assert "What this page cannot decide" in page and "## Wall-clock" in page and "Incomplete" not in page

    # One number is changed before the cell runs again, so that both answers are seen: it differs, all others agree.
    file = out / "dscd/seed-1/measures/forgetting.json"
    stored = json.loads(file.read_text())
    changed = stored | {"problems": stored["problems"] | {"nll": [0.5, *stored["problems"]["nll"][1:]]}}
    file.write_text(json.dumps(changed))
    code, text = run_main(main, plan, "--cell", "dscd/seed-1")
    told = [line for line in text.splitlines() if "numbers differ" in line]
    assert code == "1" and len(told) == 1 and "dscd/seed-1 forgetting: 1 of" in told[0]
    assert "problems.nll[0]: stored 0.5" in told[0]
    file.write_text(json.dumps(stored))
    study, cell = load(StudyConfig, plan), Cell("dscd", 1)
    assert differences(CellFiles.of(study, cell), CellFiles.of(study, cell, out / "reruns/dscd/seed-1")) == []


class TestMistakes:
    def test_a_cell_that_is_not_there(self, plan, refused):
        refused(main, "no cell is called 'dscd/seed-9': use one of teacher, dscd/seed-1", plan, "--cell", "dscd/seed-9")

    def test_a_setting_that_is_not_one(self, plan, refused):
        refused(main, "unknown key problem: did you mean problems", plan, "problem=3")

    def test_an_override_after_an_option(self, plan, refused):
        refused(main, "problems=2 must be at least", plan, "--cell", "teacher", "problems=2")

    def test_a_page_without_results(self, plan, refused):
        refused(main, "the teacher, which everything is compared with, is not measured yet", plan, "--report")

    def test_a_student_trained_with_other_settings(self, plan, refused, tmp_path):
        folder = tmp_path / "out/dscd/seed-1"
        (folder / "student").mkdir(parents=True)
        experiment = yaml.safe_load((tmp_path / "experiment.yaml").read_text())
        experiment["train"]["learning_rate"] = 0.5
        (folder / "config.yaml").write_text(yaml.safe_dump(experiment))
        refused(main, "was started with train.learning_rate=0.5, not 0.01", plan)
