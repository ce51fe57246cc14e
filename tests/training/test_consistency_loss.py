"""dscd_loss against the published values and gradients, and its properties."""

import json

import pytest
import torch
from safetensors.torch import load_file

from cd4lm.training.consistency_loss import dscd_loss


@pytest.mark.parametrize("i", range(4))
def test_matches_published_values_and_gradients(reference, i):
    case = json.loads((reference / "losses.json").read_text())["losses"][i]
    tensors = load_file(reference / "losses.safetensors")
    student = tensors[f"student_{i}"].requires_grad_()
    loss = dscd_loss(
        student,
        tensors[f"teacher_{i}"],
        tensors[f"labels_{i}"],
        temperature=case["temperature"],
        weight=case["lambda_"],
        clamp=case["clamp"],
    )
    for name in ("total", "consistency", "reconstruction"):
        assert loss._asdict()[name].item() == pytest.approx(case[name], abs=1e-5)
    (gradient,) = torch.autograd.grad(loss.total, student)
    torch.testing.assert_close(gradient, tensors[f"grad_{i}"], atol=1e-5, rtol=0)


@pytest.fixture
def batch():
    labels = torch.randint(0, 11, (2, 8))
    labels[0, 3:] = -100
    return torch.randn(2, 8, 11), torch.randn(2, 8, 11), labels


def test_consistency_is_zero_only_where_student_equals_teacher(batch):
    student, teacher, labels = batch
    assert dscd_loss(teacher, teacher, labels, weight=1.0).total.item() == pytest.approx(0, abs=1e-6)
    assert dscd_loss(teacher + 3.0, teacher, labels, weight=1.0).total.item() == pytest.approx(0, abs=1e-5)
    assert dscd_loss(student, teacher, labels, weight=1.0).total > 0.01


def test_ignored_positions_do_not_count(batch):
    student, teacher, labels = batch
    other = student.clone()
    other[0, 3:] = torch.randn(5, 11) * 9
    assert dscd_loss(student, teacher, labels, weight=0.5) == dscd_loss(other, teacher, labels, weight=0.5)


def test_kl_can_be_kept_to_some_positions(batch):
    student, teacher, labels = batch
    at = torch.zeros(2, 8, dtype=torch.bool)
    at[1, 2] = at[0, 5] = True  # the latter has no label, so it never counts
    loss = dscd_loss(student, teacher, labels, weight=1.0, temperature=1.0, consistency_at=at)
    p, q = teacher[1, 2].log_softmax(-1), student[1, 2].log_softmax(-1)
    torch.testing.assert_close(loss.total, (p.exp() * (p - q)).sum())


def test_parts_of_a_batch_add_up_to_the_whole(batch):
    student, teacher, labels = batch
    whole = dscd_loss(student, teacher, labels, weight=0.7)
    count = (labels != -100).sum()
    halves = [
        dscd_loss(student[i : i + 1], teacher[i : i + 1], labels[i : i + 1], weight=0.7, counts=(count, count))
        for i in range(2)
    ]
    torch.testing.assert_close(halves[0].total + halves[1].total, whole.total)


def test_no_teacher_only_at_weight_zero(batch):
    student, teacher, labels = batch
    alone = dscd_loss(student, None, labels, weight=0.0)
    torch.testing.assert_close(alone.total, dscd_loss(student, teacher, labels, weight=0.0).total)
    with pytest.raises(ValueError, match="teacher_logits"):
        dscd_loss(student, None, labels, weight=0.1)


def test_bf16_logits_are_widened(batch):
    student, teacher, labels = batch
    loss = dscd_loss(student.bfloat16(), teacher.bfloat16(), labels, weight=0.5)
    assert loss.total.dtype == torch.float32
