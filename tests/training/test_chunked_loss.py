"""The loss from hidden rows against dscd_loss on full logits: value and gradient, for every option."""

from itertools import product

import pytest
import torch

from cd4lm.diffusion.losses import (
    cdlm_consistency,
    cdlm_distillation,
    certainty_loss,
    masked_diffusion_loss,
    mean_weights,
    tad_distillation,
)
from cd4lm.training.chunked_loss import Rows, chunked_certainty_loss, chunked_dscd_loss, weighted_rows, whole_rows
from cd4lm.training.consistency_loss import dscd_loss

N, D, V = 37, 16, 301


@pytest.fixture
def case():
    """Student hidden and head, teacher hidden and head, labels, kept."""
    scale = 0.7
    tensors = [torch.randn(*shape) * scale for shape in ((N, D), (V, D), (N, D), (V, D))]
    return [*tensors, torch.randint(0, V, (N,)), torch.rand(N) < 0.6]


def full(case, kept, **options):
    h, w, h_t, w_t, labels, _ = case
    h, w = h.clone().requires_grad_(), w.clone().requires_grad_()
    teacher = None if options["weight"] == 0 else h_t @ w_t.T
    loss = dscd_loss(h @ w.T, teacher, labels, consistency_at=kept, **options)
    return loss, torch.autograd.grad(loss.total, (h, w))


def chunked(case, kept, chunk, **options):
    h, w, h_t, w_t, labels, _ = case
    h, w = h.clone().requires_grad_(), w.clone().requires_grad_()
    teacher = None if options["weight"] == 0 else Rows(h_t if kept is None else h_t[kept], w_t)
    loss = chunked_dscd_loss(Rows(h, w), teacher, labels, consistency_at=kept, chunk=chunk, **options)
    return loss, torch.autograd.grad(loss.total, (h, w))


CLAMPS = (None, 5.0, 1e-3, 5.7)  # none; the published one, under which only a part may pass; below both; between
OPTIONS = list(product((1.0, 2.0), (0.0, 0.3, 1.0), CLAMPS, ("all", "some", "none")))


@pytest.mark.parametrize("temperature,weight,clamp,kl", OPTIONS)
def test_value_and_gradient_equal_the_full_loss(case, temperature, weight, clamp, kl):
    kept = {"all": None, "some": case[5], "none": torch.zeros_like(case[5])}[kl]
    options = {"temperature": temperature, "weight": weight, "clamp": clamp}
    expected, gradients = full(case, kept, **options)
    for chunk in (5, 256):
        loss, found = chunked(case, kept, chunk, **options)
        for a, b in zip((*loss, *found), (*expected, *gradients), strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_counts_of_a_larger_batch(case):
    counts = (torch.tensor(91.0), torch.tensor(130.0))
    expected, gradients = full(case, case[5], weight=0.7, counts=counts)
    loss, found = chunked(case, case[5], 8, weight=0.7, counts=counts)
    for a, b in zip((*loss, *found), (*expected, *gradients), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_the_gradient_scales_with_what_comes_after(case):
    h, w = case[0].clone().requires_grad_(), case[1].clone().requires_grad_()
    loss = chunked_dscd_loss(Rows(h, w), Rows(case[2], case[3]), case[4], weight=0.5)
    (3 * loss.total + 1).backward()
    _, expected = full(case, None, weight=0.5)
    torch.testing.assert_close(h.grad, 3 * expected[0])
    torch.testing.assert_close(w.grad, 3 * expected[1])


def test_a_frozen_head_gets_no_gradient_and_the_rows_the_same(case):
    h = case[0].clone().requires_grad_()
    loss = chunked_dscd_loss(Rows(h, case[1]), Rows(case[2], case[1]), case[4], weight=0.5, chunk=7)
    loss.total.backward()
    shared = [case[0], case[1], case[2], case[1], *case[4:]]
    torch.testing.assert_close(h.grad, full(shared, None, weight=0.5)[1][0])


def test_without_gradient_the_value_is_the_same(case):
    expected, _ = full(case, case[5], weight=0.5)
    with torch.no_grad():
        teacher = Rows(case[2][case[5]], case[3])
        loss = chunked_dscd_loss(Rows(case[0], case[1]), teacher, case[4], weight=0.5, consistency_at=case[5], chunk=9)
    torch.testing.assert_close(tuple(loss), tuple(part.detach() for part in expected))
    assert not loss.total.requires_grad


def test_bf16_autocast_takes_the_softmax_in_float32(case):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, (d_h, d_w) = chunked(case, None, 8, weight=0.5)
        expected, (e_h, e_w) = full(case, None, weight=0.5)
    assert loss.total.dtype == torch.float32 and d_h.dtype == torch.float32 and d_w.dtype == torch.float32
    torch.testing.assert_close(loss.total, expected.total, atol=1e-4, rtol=1e-4)
    for found, wanted in ((d_h, e_h), (d_w, e_w)):
        assert (found - wanted).norm() / wanted.norm() < 0.02


def test_rows_without_a_position_give_zero_and_a_gradient_of_zero(case):
    h, w = case[0][:0].clone().requires_grad_(), case[1].clone().requires_grad_()
    counts = (torch.tensor(3.0), torch.tensor(4.0))
    loss = chunked_dscd_loss(Rows(h, w), Rows(case[2][:0], case[3]), case[4][:0], weight=0.5, counts=counts)
    loss.total.backward()
    assert loss.total.item() == 0 and w.grad.abs().sum() == 0 and h.grad.shape == (0, D)


def test_no_teacher_only_at_weight_zero(case):
    with pytest.raises(ValueError, match="needs a teacher"):
        chunked_dscd_loss(Rows(case[0], case[1]), None, case[4], weight=0.1)


@pytest.mark.parametrize("chunk", [5, 256])
@pytest.mark.parametrize("loss", ["distillation", "consistency", "denoising", "privileged"])
def test_weighted_losses_equal_the_pure_ones(case, loss, chunk):
    h, w, h_t, w_t, labels, _ = case
    at = torch.zeros(4, 12, dtype=torch.bool)
    at.view(-1)[torch.randperm(48)[:N]] = True
    x0 = torch.zeros(4, 12, dtype=torch.long)
    x0[at] = labels
    h, w, head = (t.clone().requires_grad_() for t in (h, w, w_t))
    T = 2.0 if loss == "privileged" else 1.0
    weights, options = T**2 * mean_weights(at), {"temperature": T, "chunk": chunk}
    if loss == "denoising":
        expected = masked_diffusion_loss(h @ w.T, x0, at)
        found = weighted_rows(Rows(h, w), None, labels, weights, **options)
    else:
        pure = {"distillation": cdlm_distillation, "consistency": cdlm_consistency, "privileged": tad_distillation}[
            loss
        ]
        own = {"temperature": T} if loss == "privileged" else {}
        expected = pure(h @ w.T, (h_t @ head.T).detach(), at, **own)
        found = weighted_rows(Rows(h, w), Rows(h_t, head), None, weights, **options)
    gradients = [torch.autograd.grad(value, (h, w)) for value in (expected, found)]
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(b, a, atol=1e-6, rtol=1e-5)
    with torch.no_grad():
        target = None if loss == "denoising" else Rows(h_t, head)
        again = weighted_rows(Rows(h, w), target, labels if target is None else None, weights, **options)
    torch.testing.assert_close(again, expected.detach(), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("chunk", [1, 5, 20, 256])
def test_certainty_equals_the_pure_loss(case, chunk):
    """However many rows share a chunk, and where one row alone is larger than it."""
    h, w, *_, labels, _ = case
    at = torch.zeros(6, 12, dtype=torch.bool)
    at[:4].view(-1)[torch.randperm(48)[: N - 1]] = True
    at[5, 3] = True  # after a row without a position
    x0 = torch.zeros(6, 12, dtype=torch.long)
    x0[at] = labels
    w = w.clone()
    w[labels[::2]] += h[::2]  # half of them right
    h, w = h.clone().requires_grad_(), w.requires_grad_()
    how = {"beta": 2.0, "temperature": 0.5}
    expected = certainty_loss(h @ w.T, x0, at, **how)
    found = chunked_certainty_loss(Rows(h, w), labels, at, chunk=chunk, **how)
    assert expected.certainty > 0
    torch.testing.assert_close(tuple(found), tuple(expected), atol=1e-6, rtol=1e-5)
    gradients = [torch.autograd.grad(loss.total, (h, w)) for loss in (expected, found)]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(b, a, atol=1e-6, rtol=1e-4)
    with torch.no_grad():
        again = chunked_certainty_loss(Rows(h, w), labels, at, chunk=chunk, **how)
    torch.testing.assert_close(tuple(again), tuple(part.detach() for part in expected), atol=1e-6, rtol=1e-5)


def test_certainty_of_no_position_is_zero(case):
    h, w = case[0][:0].clone().requires_grad_(), case[1].clone().requires_grad_()
    nowhere = torch.zeros(2, 3, dtype=torch.bool)
    loss = chunked_certainty_loss(Rows(h, w), case[4][:0], nowhere, beta=2.0, temperature=0.5, chunk=4)
    loss.total.backward()
    assert loss.total.item() == 0 and w.grad.abs().sum() == 0


def test_chunks_of_whole_rows():
    found = [(part.rows.start, part.rows.stop) for part in whole_rows([3, 0, 4, 9, 1, 1], 7)]
    assert found == [(0, 7), (7, 16), (16, 18)] and whole_rows([], 7) == [] and whole_rows([0, 0], 7) == []
