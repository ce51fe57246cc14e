"""The masked diffusion loss against its definition, and the lambda schedule against the published values."""

import json
import math

import pytest
import torch

from cd4lm.diffusion.losses import cdlm_consistency, cdlm_distillation, masked_diffusion_loss
from cd4lm.diffusion.schedules import curriculum_lambda


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


# CDLM. Two words; a logit pair (log p, log(1 - p)) has the probabilities p and 1 - p.


def words(*p):
    p = torch.tensor(p)
    return torch.stack((p.log(), (1 - p).log()), dim=-1)


def binary_kl(p, q):
    return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))


@pytest.mark.parametrize("loss", [cdlm_distillation, cdlm_consistency])
def test_cdlm_divergences_on_a_case_by_hand(loss):
    at = torch.tensor([[True, False, True], [False, True, False]])  # two positions of one row, one of the other
    target, student = (0.5, 0.8, 0.9), (0.25, 0.8, 0.6)
    by_hand = 0.5 * (0.5 * (binary_kl(0.5, 0.25) + binary_kl(0.8, 0.8)) + binary_kl(0.9, 0.6))
    assert loss(words(*student), words(*target), at).item() == pytest.approx(by_hand, rel=1e-5)
    assert loss(words(*target), words(*target), at).item() == pytest.approx(0, abs=1e-6)


def test_a_row_without_positions_counts_as_zero():
    at = torch.tensor([[True, True], [False, False]])
    one = torch.tensor([[True, True]])
    case = words(0.3, 0.6), words(0.5, 0.5)
    assert cdlm_consistency(*case, at).item() == pytest.approx(cdlm_consistency(*case, one).item() / 2)
    assert cdlm_consistency(words(), words(), torch.zeros(1, 2, dtype=torch.bool)).item() == 0


def test_consistency_has_no_gradient_through_its_target():
    student, later = words(0.3, 0.6).requires_grad_(), words(0.5, 0.5).requires_grad_()
    cdlm_consistency(student, later, torch.ones(1, 2, dtype=torch.bool)).backward()
    assert later.grad is None and student.grad.abs().sum() > 0


def test_masked_denoising_on_a_case_by_hand():
    masked = torch.tensor([[True, True], [True, False]])
    x0 = torch.tensor([[0, 1], [0, 1]])
    by_hand = -0.5 * (0.5 * (math.log(0.3) + math.log(1 - 0.6)) + math.log(0.9))
    assert masked_diffusion_loss(words(0.3, 0.6, 0.9), x0, masked).item() == pytest.approx(by_hand, rel=1e-5)
