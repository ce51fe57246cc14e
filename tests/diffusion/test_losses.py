"""The masked diffusion loss against its definition, and the lambda schedule against the published values."""

import json

import pytest
import torch

from src.diffusion.losses import masked_diffusion_loss
from src.diffusion.schedules import curriculum_lambda


def test_masked_diffusion_loss_is_the_mean_of_row_means():
    x0, masked = torch.randint(0, 9, (3, 6)), torch.rand(3, 6) < 0.6
    masked[:, 0] = True
    logits = torch.randn(3, 6, 9)
    wanted = 0.0
    for b in range(3):
        nll = [-logits[b, i].log_softmax(-1)[x0[b, i]] for i in range(6) if masked[b, i]]
        wanted += sum(nll) / len(nll) / 3
    torch.testing.assert_close(masked_diffusion_loss(logits[masked], x0, masked), wanted)


def test_curriculum_is_the_published_one(reference):
    for case in json.loads((reference / "losses.json").read_text())["schedule"]:
        value = curriculum_lambda(
            case["step"],
            case["max_steps"],
            initial=case["initial"],
            final=case["final"],
            warmup_ratio=case["warmup_ratio"],
        )
        assert value == pytest.approx(case["value"], abs=1e-12)


def test_curriculum_stays_at_its_end():
    assert curriculum_lambda(500, 100) == pytest.approx(0.5)
