"""Runs of several processes as a user starts them, on CPUs or GPUs, and their comparison with one process."""

import os
import subprocess
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from cd4lm.config import load
from cd4lm.settings import ExperimentConfig
from cd4lm.training.launch import training_command
from tests.conftest import ROOT
from tests.training.worlds import LOSSES, steps


def launch_file(folder: Path, name: str, *, cpu: bool = True) -> str:
    """A shipped launch file with two processes, in float32."""
    tree = yaml.safe_load((ROOT / f"configs/{name}.yaml").read_text())
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(tree | {"num_processes": 2, "use_cpu": cpu, "mixed_precision": "no"}))
    return str(path)


def start(path: Path) -> subprocess.Popen:
    words, environment = training_command(load(ExperimentConfig, path), [str(path)])
    log = open(path.with_suffix(".log"), "a")  # noqa: SIM115
    return subprocess.Popen(words, cwd=ROOT, env=os.environ | environment, stdout=log, stderr=log)


def finished(path: Path) -> None:
    """Run a config; its log is what an assertion shows."""
    assert start(path).wait() == 0, path.with_suffix(".log").read_text()[-3000:]


def check_same(folder: Path, name: str, rel: float = 1e-5, atol: float = 1e-4) -> None:
    """Losses and weights of a run are those of one process."""
    one, two = steps(folder / "one"), steps(folder / name)
    for key in LOSSES:
        assert [s[key] for s in two] == pytest.approx([s[key] for s in one], rel=rel, abs=rel / 10), key
    expected = load_file(folder / "one/student/model.safetensors")
    for key, tensor in load_file(folder / name / "student/model.safetensors").items():
        torch.testing.assert_close(tensor, expected[key], atol=atol, rtol=atol)
