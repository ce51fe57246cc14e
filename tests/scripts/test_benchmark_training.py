"""The training benchmark as a user runs it: every variant computes the same loss and gradients."""

import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT


@pytest.mark.slow
def test_variants_agree(tmp_path):
    out = tmp_path / "found.json"
    words = ["--shape", "tiny", "--batch", "2", "--length", "48", "--steps", "1", "--rounds", "1"]
    words += ["--variants", "published,ours,ours_lora", "--output", str(out)]
    done = subprocess.run(
        [sys.executable, "scripts/benchmark_training.py", *words], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    agreement = found["agreement"]
    assert agreement["loss_ours"] == pytest.approx(agreement["loss_published"], rel=1e-5)
    assert agreement["gradient_relative_difference"] < 1e-5
    assert len(found["variants"]) == 3
