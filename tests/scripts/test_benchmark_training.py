"""The training benchmark as a user runs it: every variant computes the same loss and gradients."""

import argparse
import json
import os
import signal
from dataclasses import replace

import pytest
from benchmarking.shapes import DIMENSIONS, config_of
from benchmarking.training_steps import Work, measure

from cd4lm.objectives import OBJECTIVES
from scripts import benchmark_training
from tests.command_line import command


@pytest.mark.slow
def test_variants_agree(tmp_path):
    out = tmp_path / "found.json"
    words = ["--shape", "tiny", "--batch", "2", "--length", "48", "--steps", "1", "--rounds", "1"]
    words += ["--variants", "ours,published", "--output", str(out)]
    done = command("scripts/benchmark_training.py", *words)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    agreement = found["agreement"]
    assert agreement["loss_ours"] == pytest.approx(agreement["loss_published"], rel=1e-5)
    assert agreement["gradient_relative_difference"] < 1e-5
    assert list(found["variants"]) == ["published", "ours"]
    assert found["command"].endswith(" ".join(words)) and found["commit"]


def test_adapters_take_a_pass_and_a_model_less():
    config = config_of(argparse.Namespace(shape="tiny", **dict.fromkeys(DIMENSIONS)))
    work = Work("ours", config, "float32", batch=2, length=48, chunk=16, steps=1, gradients=None)
    full, adapted = measure(work), measure(replace(work, variant="ours_lora"))
    assert adapted["flops"] == pytest.approx(0.75 * full["flops"])  # no gradient of the frozen weights
    assert adapted["weights"] < full["weights"]  # one model instead of two


# Student and teacher; two states and the later one; two states; two states; a teacher that reads the answer first.
@pytest.mark.parametrize("objective,passes", [("dscd", 4), ("cdlm", 7), ("dparallel", 6), ("d3llm", 6), ("tad", 4.75)])
def test_every_objective_has_a_step(objective, passes):
    assert objective in OBJECTIVES
    config = config_of(argparse.Namespace(shape="tiny", **dict.fromkeys(DIMENSIONS)))
    found = measure(Work(objective, config, "float32", batch=2, length=96, chunk=16, steps=2, gradients=None))
    assert found["passes"] == passes and len(found["seconds"]) == 2
    a_block = {"dparallel": 2 * 32, "d3llm": 2 * 32}.get(objective)  # of 72 tokens, so the last one is shorter
    assert 0 < found["scored_positions"] <= (a_block or 2 * 2 * 72)
    merged = benchmark_training.merge([found])
    assert merged["seconds_per_pass"] == pytest.approx(merged["seconds"] / passes)
    assert benchmark_training.cells(objective, merged, merged)["loss peak, GB"] == "-"


def killed(work):
    """As the kernel ends a process without memory."""
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_a_killed_variant_is_named(refused, monkeypatch):
    monkeypatch.setattr(benchmark_training, "measure", killed)
    words = ("--shape", "tiny", "--variants", "ours", "--rounds", 1)
    refused(benchmark_training.main, "ours was killed or ran out of memory: lower --batch", *words)


@pytest.mark.parametrize(
    "words,message",
    [
        ("--variants ours,theirs", "--variants: 'theirs' is unknown"),
        ("--batch 0", "--batch=0 must be at least 1"),
        ("--length 4", "--length=4 must be at least 8"),
        ("--length 5000", "--length=5000 is above the 4096 tokens"),
        ("--vocab_size 300", "--vocab_size=300 must be at least 512"),
        ("--d_model 100 --n_heads 3", "d_model=100 must split into n_heads=3"),
    ],
)
def test_wrong_options_are_refused_before_a_model_is_made(refused, words, message):
    refused(benchmark_training.main, message, "--shape", "tiny", *words.split())
