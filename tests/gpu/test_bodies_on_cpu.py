"""The GPU suite's bodies on a CPU, smaller, so that they are not code that has never run."""

import pytest
import torch
from preflighting import gpu
from preflighting.checks import NO, OK, UNKNOWN

from tests.gpu import bodies
from tests.training.worlds import write_teacher_and_data

CPU = torch.device("cpu")


@pytest.mark.slow
@pytest.mark.parametrize("policy,cache", [("cad", "none"), ("multi_block", "block")])
def test_captured_is_eager(policy, cache):
    bodies.captured_is_eager(policy, cache, CPU)


@pytest.mark.slow
def test_captured_stream_is_bounded():
    bodies.captured_stream_is_bounded(CPU, rounds=2)


def test_bf16_learns(tmp_path):
    write_teacher_and_data(tmp_path)
    bodies.falls(tmp_path, "bf16", 12, bf16=True, optimizer="adamw")


def test_bf16_against_float32():
    line = gpu.bf16_against_float32("bf16", CPU)
    assert line.verdict == OK and 0 < line.numbers["difference"] < gpu.BF16_TOLERANCE


def test_mechanism_is_measured():
    bodies.mechanism_is_measured(CPU)


@pytest.mark.parametrize("cache", ["prefix", "dual", "block"])
def test_speedup_is_measured(cache):
    assert bodies.speedup(cache, "tiny", torch.float32, CPU, prompt=64, canvas=64) > 0


@pytest.mark.slow
def test_collective():
    line = gpu.collective("sums", 2, CPU)
    assert line.verdict == OK and line.numbers["backend"] == "gloo", line.what
    assert gpu.collective("sums", 1, CPU).verdict == UNKNOWN


def test_a_group_that_fails_is_a_line(monkeypatch):
    monkeypatch.setattr(gpu, "torchrun", lambda words, processes: (["sh", "-c", "echo no such device >&2; exit 3"], {}))
    line = gpu.collective("sums", 2, CPU)
    assert line.verdict == NO and "no such device" in line.what


def test_without_a_gpu_one_line_says_so():
    if torch.cuda.is_available():
        pytest.skip("a GPU is here")
    (line,) = gpu.rows(8)
    assert line.verdict == UNKNOWN
