"""scripts/reproduce_paper.sh: a whole reproduction on a small checkpoint and local rows, and what stops it early."""

import json
import os
import shutil
import subprocess

import pytest

from cd4lm.data.rows import write_jsonl
from scripts import reproduce_paper
from scripts.paper_table import RUNS
from scripts.reproduce_paper import Plan
from tests.byte_checkpoint import build
from tests.conftest import ROOT
from tests.evaluation.benchmarks import FILES, SLICES, rows_of

SMALL = "train.max_steps=2 train.batch_size=2 train.accumulation=1 train.bf16=false train.gradient_checkpointing=false"
SETTINGS = {"GEN_LENGTH": "32", "BLOCK_LENGTH": "16", "THRESHOLD": "0.1", "RECIPE": "lora", "OMP_NUM_THREADS": "1"}
CONFIRM = "--confirm_run_unsafe_code"


def fill(folder) -> None:
    """A small teacher, rows of the four benchmarks, and rows to distil on."""
    build(folder / "teacher")
    for task, name in FILES.items():
        (folder / "data" / task).mkdir(parents=True)
        shutil.copy(SLICES / f"{task}.jsonl", folder / f"data/{name}.jsonl")
    write_jsonl(folder / "data/gsm8k/train.jsonl", rows_of("gsm8k"))


def environment(folder, **changes) -> dict[str, str]:
    places = {"TEACHER_MODEL_PATH": folder / "teacher", "DATA_DIR": folder / "data", "OUTPUT_DIR": folder / "out"}
    return (
        SETTINGS
        | {"TRAIN_OVERRIDES": f"{SMALL} format.max_length=1500"}
        | {k: str(v) for k, v in places.items()}
        | changes
    )


def reproduce(folder, *words, **changes) -> subprocess.CompletedProcess:
    command = ["bash", "scripts/reproduce_paper.sh", "--limit", "2", *words]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env=os.environ | environment(folder, **changes)
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("paper")
    fill(folder)
    return folder


@pytest.mark.slow
def test_a_whole_reproduction_and_the_same_command_again(world, refused, monkeypatch):
    """One student and its benchmark: each further one takes as long and nothing else."""
    done = reproduce(world, CONFIRM, TASKS="gsm8k")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert done.stdout.index("benchmarks gsm8k: 2 documents") < done.stdout.index("== data")
    table = json.loads((world / "out/table.json").read_text())
    assert [task for task, row in table.items() if row is not None] == ["gsm8k"]
    row = table["gsm8k"]
    assert row["documents"] == 2 and row["runs"].keys() == RUNS.keys()
    assert all(f["low"] <= f["value"] <= f["high"] for f in row["figures"])
    assert all((f["published"] is None or "contains" in f) for f in row["figures"])
    control = row["control"]["accuracy_difference"]
    assert control["low"] <= control["value"] <= control["high"]
    assert row["runs"]["teacher, fixed, full"]["nfe"] == 32 > row["runs"]["teacher + CAD"]["nfe"]
    assert (world / "out/table.md").read_text() in done.stdout

    out = world / "out"
    kept = [*out.glob("*/student/*"), *out.glob("*/training_log.jsonl"), *out.glob("eval/gsm8k/*/answers.*.jsonl")]
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in kept}
    assert len(list(out.glob("*/student/model.safetensors"))) == 1
    assert len(list(out.glob("eval/gsm8k/*/answers.*"))) == 5
    again = reproduce(world, CONFIRM, TASKS="gsm8k")
    assert again.returncode == 0, again.stderr[-2000:]
    assert "student (done)" in again.stdout and "== student" not in again.stdout and "== data" not in again.stdout
    assert "== evaluation of gsm8k: done before" in again.stdout
    assert before == {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in kept}
    figures = json.loads((out / "table.json").read_text())["gsm8k"]["figures"][:3]
    assert figures == row["figures"][:3]

    for name, value in environment(world, NUM_PROCESSES="1", TASKS="gsm8k").items():
        monkeypatch.setenv(name, value)
    message = "was started with dscd.temperature=2.0, not 1.0"
    refused(reproduce_paper.main, message, CONFIRM, "dscd.temperature=1")


@pytest.mark.slow
def test_the_students_in_the_fields_table(world):
    """The same student under another protocol: runs and table apart from CD4LM's."""
    done = reproduce(world, "--protocol", "field", TASKS="gsm8k")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "protocol field" in done.stdout and (world / "out/table_field.md").read_text() in done.stdout
    pools = json.loads((world / "out/table_field.json").read_text())
    assert [pool["benchmark"] for pool in pools[:4]] == ["GSM8K", "MATH", "HumanEval", "MBPP"]
    assert all("TAD speed" in pool["published"] and not pool["runs"] for pool in pools[:4])
    (own,) = [pool for pool in pools if "lm-eval's gsm8k" in pool["protocol"] and pool["runs"]]
    assert {run["name"] for run in own["runs"]} == {"cad_0.1", "teacher_cad_0.1", "teacher_fixed_stop"}
    assert "gen_length=32, not 256" in own["note"] and not own["published"]


@pytest.mark.slow
def test_a_bad_teacher_is_one_line_from_the_shell(world):
    done = reproduce(world, CONFIRM, TEACHER_MODEL_PATH="/nowhere", OUTPUT_DIR=str(world / "never"))
    assert done.returncode != 0 and len(done.stderr.splitlines()) == 1 and "/nowhere does not exist" in done.stderr
    assert not (world / "never").exists()


class TestRefused:
    """Before anything is prepared or trained."""

    @pytest.fixture
    def stops(self, world, refused, monkeypatch, tmp_path):
        def check(message: str, *words, **changes) -> None:
            monkeypatch.chdir(ROOT)
            given = environment(world, **{"NUM_PROCESSES": "1", "OUTPUT_DIR": str(tmp_path / "out")} | changes)
            for name, value in given.items():
                monkeypatch.setenv(name, value)
            refused(reproduce_paper.main, message, "--limit", "2", *words)
            assert not list(tmp_path.glob("out/*/*"))

        return check

    def test_programs_without_consent(self, stops):
        stops("humaneval, mbpp run programs that a model wrote")

    def test_unknown_names(self, stops):
        stops("TASKS has gsm8", TASKS="gsm8")
        stops("--protocol fields is not one of default, field", "--protocol", "fields", TASKS="gsm8k")
        stops("RECIPE=best is not one of full, lora, published", TASKS="gsm8k", RECIPE="best")
        stops("did you mean temperature", "dscd.temprature=1", TASKS="gsm8k")
        stops("NUM_PROCESSES=two must be", TASKS="gsm8k", NUM_PROCESSES="two")

    def test_missing_rows(self, stops, tmp_path):
        stops("gsm8k/test.jsonl does not exist", TASKS="gsm8k", DATA_DIR=str(tmp_path))
        stops("minerva_math/*.jsonl does not exist", TASKS="math500", PROTOCOL="field")

    def test_no_tokenizer(self, stops, world, tmp_path):
        teacher = shutil.copytree(world / "teacher", tmp_path / "teacher")
        for file in teacher.glob("tokenizer*"):
            file.unlink()
        stops("has no usable tokenizer", TASKS="gsm8k", TEACHER_MODEL_PATH=str(teacher))

    def test_fewer_documents_than_processes(self, stops):
        stops("--limit 2 must give each of the 3 process(es) a document", TASKS="gsm8k", NUM_PROCESSES="3")


@pytest.mark.parametrize("processes,training", [(1, 1), (2, 2), (3, 2), (4, 4), (7, 4), (8, 8)])
def test_training_takes_a_power_of_two_of_the_processes_and_the_students_that_are_needed(processes, training):
    names = ("teacher", "output", "data_dir", "limit", "threshold", "confirmed")
    plan = Plan(**dict.fromkeys(names), tasks=["mbpp"], recipe="published", processes=processes, overrides=[])
    assert plan.training_processes == training and plan.students == ["opencode"]
    assert (ROOT / plan.config("opencode")).is_file()
