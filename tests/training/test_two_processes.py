"""One process and two, through every way of sharding that a CPU can run, compute the same run."""

import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cd4lm.config import TERMINATED, dump
from cd4lm.data.trajectories import is_complete
from cd4lm.training.collect_trajectories import collect
from cd4lm.training.export import consolidate
from cd4lm.training.train import train
from tests.training.launched import check_same, finished, launch_file, start
from tests.training.worlds import (
    PARTS,
    cdlm_config,
    config,
    objective_config,
    steps,
    write_config,
    write_teacher_and_data,
)

pytestmark = pytest.mark.slow


def make_world(folder: Path, backbone: str) -> Path:
    """A folder with teacher and data, and the run of one process in `one`."""
    write_teacher_and_data(folder, backbone)
    train(config(folder, "one"))
    return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"), "llada")


@pytest.fixture(scope="module")
def tied(tmp_path_factory):
    """A model whose head is its embedding: gathered for both uses, with the gradient of both, and exported once."""
    return make_world(tmp_path_factory.mktemp("tied"), "illada")


def test_ddp_with_a_sharded_teacher(tied, monkeypatch):
    world = tied
    monkeypatch.setenv("NUM_PROCESSES", "2")
    run = write_config(world, "ddp", shard_teacher=True)
    finished(run)
    check_same(world, "ddp")


@pytest.mark.parametrize("objective", ["cdlm"])  # the others' means are taken the same way; TAD's under ZeRO-3 below
def test_other_objectives_on_two_processes(world, monkeypatch, objective):
    if not is_complete(world / "paths"):
        collect(cdlm_config(world, "any"))
    one, two = (f"{objective}_{n}" for n in ("one", "two"))
    train(objective_config(world, one, objective))
    monkeypatch.setenv("NUM_PROCESSES", "2")
    run = world / f"{two}.yaml"
    dump(objective_config(world, two, objective), run)
    finished(run)
    for key in ("loss", *PARTS[objective], "grad_norm"):
        a, b = ([step[key] for step in steps(world / name)] for name in (one, two))
        assert len(b) == 6 and b == pytest.approx(a, rel=1e-4, abs=1e-6), key


def test_tad_in_zero3(world):
    """TAD runs a whole teacher inside the student's gathered head."""
    pytest.importorskip("deepspeed")
    if not is_complete(world / "paths"):
        collect(cdlm_config(world, "any"))
    launch = launch_file(world, "accelerate_zero3_8gpu")
    one, zero3 = "tad_alone", "tad_zero3"
    train(objective_config(world, one, "tad", max_steps=2))
    run = world / f"{zero3}.yaml"
    dump(objective_config(world, zero3, "tad", max_steps=2, global_batch=8, launch=launch), run)
    finished(run)
    for key in ("loss", *PARTS["tad"], "grad_norm"):
        a, b = ([step[key] for step in steps(world / name)] for name in (one, zero3))
        assert len(b) == 2 and b == pytest.approx(a, rel=1e-4, abs=1e-6), key


def test_zero2(world):
    pytest.importorskip("deepspeed")
    run = write_config(world, "zero2", global_batch=8, launch=launch_file(world, "accelerate_zero2_8gpu"))
    finished(run)
    check_same(world, "zero2")


@pytest.mark.parametrize("where", ["world", "tied"])
def test_zero3_stopped_by_sigterm_consolidated_and_resumed(where, request):
    pytest.importorskip("deepspeed")
    world = request.getfixturevalue(where)
    run = write_config(world, "zero3", global_batch=8, launch=launch_file(world, "accelerate_zero3_8gpu"))
    process, deadline = start(run), time.monotonic() + 400
    log = world / "zero3/training_log.jsonl"
    while not (log.is_file() and log.read_text().count('"loss"') >= 2):
        assert process.poll() is None and time.monotonic() < deadline, run.with_suffix(".log").read_text()[-3000:]
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == TERMINATED
    said = run.with_suffix(".log").read_text()
    assert "stopped by SIGTERM: checkpoint of step" in said.splitlines()[-1] and "Traceback" not in said
    (checkpoint,) = sorted((world / "zero3/checkpoints").glob("checkpoint-*"))[-1:]
    consolidate(checkpoint, world / "merged")
    merged = load_file(world / "merged/model.safetensors")
    plain = load_file(checkpoint / "model.safetensors")  # what rank 0 gathered itself
    assert merged.keys() == plain.keys()
    assert all(torch.equal(merged[key], plain[key]) for key in merged)
    finished(run)
    check_same(world, "zero3")
