"""Masks: nesting, counts, guards, what is never masked."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cd4lm.diffusion.masking import (
    block_nested_masks,
    block_state_masks,
    complementary_masks,
    independent_masks,
    mask_ratio,
    nested_masks,
    uniform_count_masks,
)
from cd4lm.diffusion.noise import row_keys


def answers(*lengths: int, prompt: int = 4, width: int = 120) -> torch.Tensor:
    mask = torch.zeros(len(lengths), width, dtype=torch.bool)
    for i, n in enumerate(lengths):
        mask[i, prompt : prompt + n] = True
    return mask


def keys(n: int, seed: int = 0) -> torch.Tensor:
    return row_keys(torch.arange(n), seed)


def test_teacher_masks_lie_within_student_masks_and_both_within_the_answer():
    answer = answers(*range(1, 101))
    student, teacher = nested_masks(answer, keys(100))
    assert not (teacher & ~student).any()
    assert not (student & ~answer).any()
    assert (teacher.sum(1) >= 1).all()


def test_nested_ratios_are_the_published_ones():
    answer = answers(*[100] * 4000)
    student, teacher = nested_masks(answer, keys(4000))
    r_s, r_t = student.sum(1) / 100, teacher.sum(1) / 100
    assert r_s.min() >= 0.39 and r_s.max() <= 0.90
    assert abs(r_s.mean() - 0.645) < 0.01  # mean of U(0.4, 0.9), less half a token of rounding down
    assert (teacher.sum(1) <= (0.70 * r_s * 100 + 1)).all()
    assert r_t.min() >= 0.10 and r_t.max() <= 0.60
    assert abs((r_t / r_s).mean() - 0.5) < 0.02


def test_guards_for_short_answers():
    student, teacher = nested_masks(answers(*[10] * 50, *[19] * 50), keys(100))
    assert (student[:50].sum(1) == 2).all() and (teacher[:50].sum(1) == 1).all()
    assert (student[50:].sum(1) <= 9).all() and (student[50:].sum(1) >= 2).all()


def test_an_answer_of_one_token_masks_one():
    student, teacher = nested_masks(answers(1), keys(1))
    assert student.sum() == 1 and teacher.sum() == 1


def test_without_guards_short_answers_follow_the_ratios():
    student, _ = nested_masks(answers(*[10] * 500), keys(500), short_guards=False)
    assert student.sum(1).max() >= 8


def test_masks_depend_on_the_key_alone():
    answer = answers(30, 40, 50)
    together = nested_masks(answer, keys(3))
    again = nested_masks(answer, keys(3))
    alone = nested_masks(answer[1:2], keys(3)[1:2])
    other = nested_masks(answer, keys(3, seed=1))
    assert torch.equal(together[0], again[0]) and torch.equal(together[1], again[1])
    assert torch.equal(together[0][1:2], alone[0])
    assert not torch.equal(together[0], other[0])


def test_positions_are_masked_equally_often():
    student, _ = nested_masks(answers(*[40] * 5000), keys(5000))
    share = student[:, 4:44].float().mean(0)
    assert share.max() - share.min() < 0.06


def test_independent_masks_follow_the_schedule():
    answer = answers(*[100] * 4000)
    student, teacher = independent_masks(answer, keys(4000))
    times = torch.arange(1, 1001)
    assert abs(student.sum(1).float().mean() / 100 - mask_ratio(times).mean()) < 0.02
    assert teacher.sum() < student.sum()
    assert (teacher & ~student).any()
    assert not ((student | teacher) & ~answer).any()


def test_mask_ratio_ends():
    ratio = mask_ratio(torch.tensor([0.0, 1000.0]))
    assert ratio[0] < 1e-3 and ratio[1] == pytest.approx(1.0)


def test_uniform_counts_cover_one_to_n():
    counts = uniform_count_masks(answers(*[10] * 3000), keys(3000)).sum(1)
    assert counts.unique().tolist() == list(range(1, 11))


def test_block_states_are_clean_then_partial_then_masked():
    answer = answers(*[40] * 300)
    masked, current = block_state_masks(answer, keys(300), 10)
    blocks = masked[:, 4:44].view(300, 4, 10).sum(-1)
    here = current[:, 4:44].view(300, 4, 10).sum(-1)
    place = (here > 0).int().argmax(1)
    assert ((here > 0).sum(1) == 1).all()
    assert place.unique().tolist() == [0, 1, 2, 3]
    for i in range(300):
        assert (blocks[i, : place[i]] == 0).all() and (blocks[i, place[i] + 1 :] == 10).all()
    assert not (masked & ~answer).any()


class TestBlockNested:
    """Masks of two states of one block-wise decoding."""

    def masks(self, share=(0.3, 0.7)):
        answer = torch.zeros(400, 50, dtype=torch.bool)
        answer[:, 6:45] = True
        keys = row_keys(torch.arange(400), 5)
        return answer, block_nested_masks(answer, keys, block_length=8, teacher_share=share)

    def test_the_student_looks_like_a_state_of_cad(self):
        answer, (student, _, here) = self.masks()
        assert not (student & ~answer).any()
        block = (torch.arange(50) - 6).div(8, rounding_mode="floor").expand(400, 50)
        current = torch.where(here, block, -1).amax(dim=1, keepdim=True)
        assert (here.any(1)).all() and not (here & (block != current)).any()
        assert not (student & (block < current)).any()  # finished blocks are clean
        assert (student | ~answer)[block > current].all()  # later ones are all masked
        assert torch.equal(student & (block == current), here)
        assert current.unique().numel() == 5  # ceil(39 / 8), every block is met

    def test_the_teacher_is_further_on_in_the_same_block(self):
        _, (student, teacher, here) = self.masks()
        assert not (teacher & ~student).any()
        assert torch.equal(teacher & ~here, student & ~here)  # later blocks are masked for both
        k, k_teacher = here.sum(1), (teacher & here).sum(1)
        assert (k_teacher >= 1).all() and (k_teacher <= (0.7 * k).floor().clamp(min=1)).all()
        assert (k_teacher >= (0.3 * k).floor().clamp(min=1)).all()

    def test_a_row_does_not_depend_on_its_batch(self):
        answer, whole = self.masks()
        keys = row_keys(torch.arange(400), 5)[7:9]
        part = block_nested_masks(answer[7:9], keys, block_length=8, teacher_share=(0.3, 0.7))
        assert all(torch.equal(a, b[7:9]) for a, b in zip(part, whole, strict=True))


class TestComplementary:
    """Two states that mask one block in turn."""

    @settings(max_examples=60, deadline=None)
    @given(
        st.lists(st.integers(1, 30), min_size=1, max_size=6),
        st.integers(1, 12),
        st.floats(0, 1, allow_subnormal=False),  # training flushes them in the process
        st.booleans(),
        st.integers(0, 2**40),
        st.integers(0, 11),
    )
    def test_they_complement_each_other(self, lengths, block_length, ratio, on_path, seed, offset):
        answer, B = answers(*lengths, width=40), len(lengths)
        order = torch.full(answer.shape, -1)
        for row, n in enumerate(lengths):
            order[row, 4 : 4 + n] = torch.randperm(n)
        offset = torch.full((B,), offset % block_length)
        how = {"block_length": block_length, "ratio": ratio, "offset": offset}
        first, second, later = complementary_masks(
            answer, row_keys(torch.arange(B), seed), order=order if on_path else None, **how
        )
        assert not (first & second).any() and not (later & (first | second)).any()
        assert not ((first | second | later) & ~answer).any()
        index = (torch.arange(40) - 4 + offset[:, None]).div(block_length, rounding_mode="floor")
        for row in range(B):
            here = first[row] | second[row]
            block = index[row][here].unique()
            assert len(block) == 1  # one block, whole
            assert torch.equal(here, answer[row] & (index[row] == block))
            assert torch.equal(later[row], answer[row] & (index[row] > block))
            assert first[row].sum() == math.ceil(ratio * int(here.sum()))
            if on_path and first[row].any() and second[row].any():
                assert order[row][first[row]].min() > order[row][second[row]].max()  # what the path commits last

    def test_every_block_is_met_and_half_is_half(self):
        answer = answers(*[40] * 400)
        first, second, _ = complementary_masks(answer, keys(400), block_length=8, ratio=0.5)
        assert set(((first | second).int().argmax(dim=1) - 4).tolist()) == {0, 8, 16, 24, 32}
        assert (first.sum(dim=1) == 4).all() and (second.sum(dim=1) == 4).all()
        share = first[:, 4:44].float().mean(dim=0)
        assert share.max() - share.min() < 0.1

    def test_the_path_state_grows_with_the_ratio(self):
        """Masks of one path at a larger share contain those at a smaller one."""
        answer = answers(*[40] * 50)
        order = torch.full(answer.shape, -1)
        order[:, 4:44] = torch.rand(50, 40).argsort(dim=1)
        how = {"block_length": 16, "order": order}
        states = [complementary_masks(answer, keys(50), ratio=r, **how)[0] for r in (0.0, 0.2, 0.5, 0.8, 1.0)]
        assert not states[0].any()
        for fewer, more in pairwise(states):
            assert not (fewer & ~more).any() and more.sum() > fewer.sum()

    def test_a_row_does_not_depend_on_its_batch(self):
        answer = answers(30, 40, 50)
        whole = complementary_masks(answer, keys(3), block_length=8, ratio=0.5)
        part = complementary_masks(answer[1:2], keys(3)[1:2], block_length=8, ratio=0.5)
        assert all(torch.equal(a[1:2], b) for a, b in zip(whole, part, strict=True))
