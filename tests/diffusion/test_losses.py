"""The masked diffusion loss against its definition, and the lambda schedule against the published values."""

import json
import math

import pytest
import torch

from cd4lm.diffusion.losses import (
    cdlm_consistency,
    cdlm_distillation,
    certainty_loss,
    masked_diffusion_loss,
    tad_distillation,
)
from cd4lm.diffusion.schedules import curriculum_lambda, linear, stage


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


# dParallel and d3LLM. At T = 1/2 the probabilities p and 1 - p become p^2 and (1 - p)^2 over their sum.


def binary_entropy(p):
    return -p * math.log(p) - (1 - p) * math.log(1 - p)


def sharpened(p):
    return p * p / (p * p + (1 - p) * (1 - p))


def test_certainty_forcing_on_a_case_by_hand():
    """Of the first row's three positions two are right, of the second row's one none is."""
    masked = torch.tensor([[True, True, True], [False, True, False]])
    x0 = torch.tensor([[0, 1, 1], [0, 0, 0]])
    p = (0.7, 0.4, 0.6, 0.3)  # of word 0
    loss = certainty_loss(words(*p), x0, masked, beta=2.0, temperature=0.5)
    nll = 0.5 * (-(math.log(0.7) + math.log(0.6) + math.log(0.4)) / 3 - math.log(0.3))
    sharp = 0.5 * (binary_entropy(sharpened(0.7)) + binary_entropy(sharpened(0.4))) / 2
    assert loss.reconstruction.item() == pytest.approx(nll, rel=1e-5)
    assert loss.certainty.item() == pytest.approx(sharp, rel=1e-5)
    assert loss.total.item() == pytest.approx(nll + 2 * sharp, rel=1e-5)


def test_certainty_is_not_asked_of_what_is_wrong():
    masked, x0 = torch.ones(1, 2, dtype=torch.bool), torch.tensor([[0, 1]])
    logits = words(0.9, 0.8).requires_grad_()  # the second is wrong
    certainty_loss(logits, x0, masked, beta=1.0, temperature=1.0).certainty.backward()
    assert logits.grad[0].abs().sum() > 0 and logits.grad[1].abs().sum() == 0
    assert logits.grad[0, 0] < 0 < logits.grad[0, 1]  # what is right rises


def certainty_in_double(z, x0, masked, beta, T):
    """The formula written out, in float64."""
    total, start = 0.0, 0
    for b, n in enumerate(masked.sum(dim=1).tolist()):
        rows, labels = z[start : start + n], x0[b][masked[b]]
        start += n
        p = torch.softmax(rows / T, dim=-1)
        H = -(p * p.log()).sum(dim=-1)
        right = rows.argmax(dim=-1) == labels
        nll = -torch.log_softmax(rows, dim=-1).gather(1, labels[:, None])[:, 0]
        total = total + (nll.mean() if n else 0) / len(masked)
        total = total + beta * (H[right].mean() if right.any() else 0) / len(masked)
    return total


@pytest.mark.parametrize("beta,T", [(2.0, 0.5), (0.0, 1.0), (1.0, 3.0)])
def test_certainty_has_the_gradient_of_the_formula_in_float64(beta, T):
    masked = torch.rand(4, 9) < 0.5
    masked[2] = False  # a row without a mask
    x0 = torch.randint(0, 5, (4, 9))
    z = torch.randn(int(masked.sum()), 5, dtype=torch.float64)
    z[torch.arange(0, len(z), 2), x0[masked][::2]] += 4  # half of them right
    single, double = z.float().requires_grad_(), z.clone().requires_grad_()
    found = certainty_loss(single, x0, masked, beta=beta, temperature=T).total
    wanted = certainty_in_double(double, x0, masked, beta, T)
    assert found.item() == pytest.approx(wanted.item(), rel=1e-5)
    found.backward(), wanted.backward()
    torch.testing.assert_close(single.grad.double(), double.grad, atol=1e-6, rtol=1e-4)


# TAD.


@pytest.mark.parametrize("T", [1.0, 2.0])
def test_privileged_distillation_by_hand_and_in_float64(T):
    at = torch.tensor([[True, False, True], [False, True, False]])
    target, student = (0.5, 0.8, 0.9), (0.25, 0.8, 0.6)
    if T == 1:
        by_hand = 0.5 * (0.5 * binary_kl(0.5, 0.25) + binary_kl(0.9, 0.6))
        assert tad_distillation(words(*student), words(*target), at).item() == pytest.approx(by_hand, rel=1e-5)
    z_t, z_s = torch.randn(3, 6, dtype=torch.float64), torch.randn(3, 6, dtype=torch.float64)
    single, double = z_s.float().requires_grad_(), z_s.clone().requires_grad_()
    p = torch.softmax(z_t / T, dim=-1)
    kl = (p * (p.log() - torch.log_softmax(double / T, dim=-1))).sum(dim=-1)
    wanted = T**2 * (kl[:2].mean() + kl[2]) / 2
    found = tad_distillation(single, z_t.float(), at, T)
    assert found.item() == pytest.approx(wanted.item(), rel=1e-5)
    found.backward(), wanted.backward()
    torch.testing.assert_close(single.grad.double(), double.grad, atol=1e-6, rtol=1e-4)


# What grows over a run.


def test_ratio_and_block_length_grow_to_their_ends():
    assert [linear(step, 10, (0.0, 0.8)) for step in (0, 5, 10, 20)] == pytest.approx([0, 0.4, 0.8, 0.8])
    lengths = (16, 16, 24, 24, 32, 32)
    found = [stage(step, 60, lengths) for step in range(61)]
    assert found == [lengths[min(step // 10, 5)] for step in range(61)]
    assert [stage(step, 4, lengths) for step in range(5)] == [16, 16, 24, 32, 32]  # fewer steps than stages
