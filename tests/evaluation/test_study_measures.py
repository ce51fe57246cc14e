"""What a study measures of a cell, on random models whose answer is known."""

import math
from dataclasses import replace

import pytest
import torch

from cd4lm.data.tiny_task import WORDINGS, make_row
from cd4lm.decoding import ConfidenceAdaptive, DecodeResult, FixedSteps
from evaluation.study.calibration import calibration, second_look
from evaluation.study.estimates import entropy_bits
from evaluation.study.forgetting import PATTERNS, answer_nll, count_wordings, sampled_wordings
from evaluation.study.measures import decoders, measure_frontier, measure_transfer
from evaluation.study.settings import Cell
from evaluation.study.states import measure_states, shared_states
from tests.evaluation.study_world import study, subject

SMALL = study(problems=6, subset=6, held_out=6, transfer_problems=6, timed_problems=1)


def without_context(one):
    """Its blocks add nothing, so that what it says of a mask never depends on anything else."""
    for block in one.model.blocks:
        torch.nn.init.zeros_(block.attn_out.weight)
        torch.nn.init.zeros_(block.ff_out.weight)
    return one


class TestCalibration:
    def test_a_model_that_is_its_own_oracle_is_never_wrong(self):
        found = calibration(without_context(subject(SMALL)), 0.01)["problems"]
        assert sum(found["wrong"]) == 0 and found["confident"] == found["tokens"] and min(found["tokens"]) >= 1

    def test_a_changed_token_is_wrong_where_it_was_changed_and_nowhere_else(self):
        one = without_context(subject(SMALL))
        result = one.decode(6, FixedSteps(steps=40), stop_at_eos=False)
        result.tokens[2, 5] = (result.tokens[2, 5] + 1) % 40
        look = second_look(one, result, torch.ones_like(result.tokens, dtype=torch.bool))
        assert (look != result.tokens).nonzero().tolist() == [[2, 5]]

    @pytest.mark.parametrize("attention", [{}, {"attention": "block_causal", "block_length": 20}])
    def test_the_second_look_is_a_forward_of_the_answer_with_one_mask(self, attention):
        one = subject(SMALL, **attention)
        result = one.decode(6, ConfidenceAdaptive(threshold=0.5), stop_at_eos=False)
        where = torch.zeros_like(result.tokens, dtype=torch.bool)
        where[1, 7] = where[4, 0] = where[4, 39] = True
        looks = [second_look(replace(one, study=replace(SMALL, batch_size=b)), result, where) for b in (1, 250)]
        assert torch.equal(*looks)
        for i, j in where.nonzero().tolist():
            x = torch.cat((result.prompts[i], result.tokens[i]))[None]
            place = len(result.prompts[i]) + j
            x[0, place] = one.mask_id
            logits = one.model(input_ids=x, prompt_length=torch.tensor([len(result.prompts[i])])).logits[0, place]
            logits[one.mask_id] = -math.inf
            assert looks[0][i, j] == logits.argmax()
        assert (looks[0] >= 0).sum() == 3

    def test_confidence_decides_who_is_counted(self):
        one = subject(SMALL)
        strict, loose = (calibration(one, tau)["problems"] for tau in (0.999, 0.01))
        assert sum(strict["confident"]) < sum(strict["tokens"]) and loose["confident"] == loose["tokens"]
        assert 0 < sum(loose["wrong"]) == sum(loose["confident_wrong"])


class TestForgetting:
    def test_every_wording_is_its_own(self):
        for i in range(200):
            row = make_row("train", i, 3)
            steps = row["answer"].split("####")[0].count(" .")
            counts = count_wordings(row["answer"])
            assert counts[-1] == 0 and sum(counts) == steps
        for k, wording in enumerate(WORDINGS):
            text = wording.format(a=3, b=4, c=7, op="+", name="tom", obj="pens")
            assert [i for i, p in enumerate(PATTERNS) if p.fullmatch(text)] == [k]

    def test_other_text_is_counted_apart(self):
        assert count_wordings("3 + 4 = 7 . tom tom 3 . so 7 + 1 makes 8 pens . #### 8") == [1, 0, 0, 1, 0, 0, 0, 0, 1]
        assert count_wordings("") == [0] * 9

    def test_a_uniform_model_pays_the_logarithm_of_its_vocabulary(self):
        one = subject(replace(SMALL, nll_samples=400))
        torch.nn.init.zeros_(one.model.get_output_embeddings().weight)
        assert sum(answer_nll(one)) / 6 == pytest.approx(math.log(one.model.config.embedding_size), rel=0.03)

    def test_batches_change_no_likelihood(self):
        one = subject(SMALL)
        assert answer_nll(one) == pytest.approx(answer_nll(replace(one, study=replace(SMALL, batch_size=5))), rel=1e-5)

    def test_samples_are_the_same_again(self):
        one = subject(SMALL)
        assert sampled_wordings(one) == sampled_wordings(one) and len(sampled_wordings(one)) == 6

    def test_entropy(self):
        bits = entropy_bits(torch.tensor([[1.0] * 8, [5.0] + [0.0] * 7, [0.0] * 8, [1.0, 1.0] + [0.0] * 6]).numpy())
        assert bits.tolist() == pytest.approx([3, 0, 0, 1])


def result_of(tokens: list[int], order: list[int], length: int = 4) -> DecodeResult:
    """One row that committed tokens in this order of steps, -1 for what was filled; its first EOS at place length."""
    return DecodeResult(
        index=torch.tensor([0]),
        tokens=torch.tensor([tokens]),
        nfe=torch.tensor([max(order) + 1]),
        lengths=torch.tensor([length]),
        commits=[[]],
        commit_step=torch.tensor([order]),
        confidence=torch.zeros(1, len(tokens)),
        prompts=[torch.tensor([1])],
    )


class TestStates:
    def test_a_student_that_is_its_teacher_never_leaves_the_path(self):
        one = subject(SMALL)
        for policy in (FixedSteps(steps=40), ConfidenceAdaptive(threshold=1.0)):
            found = measure_states(one, one, policy)["problems"]
            assert found["states"] == found["same_tokens"] == found["on_path"] and min(found["states"]) >= 1

    def test_another_model_leaves_it(self):
        other = subject(SMALL)
        torch.nn.init.normal_(other.model.get_output_embeddings().weight, std=0.3)
        found = measure_states(other, subject(SMALL))["problems"]
        assert sum(found["on_path"]) <= sum(found["same_tokens"]) < sum(found["states"])

    def test_by_hand(self):
        teacher = result_of([5, 6, 7, 8], [0, 1, 2, 3])
        assert shared_states(result_of([5, 6, 7, 8], [0, 0, 1, 1]), teacher) == counts(2, 2, 2)
        assert shared_states(result_of([5, 6, 7, 8], [1, 0, 1, 2]), teacher) == counts(3, 3, 2)
        assert shared_states(result_of([5, 6, 9, 8], [0, 1, 2, 3]), teacher) == counts(4, 2, 2)
        assert shared_states(result_of([5, 6, 7, 8], [0, 2, 1, 3]), teacher) == counts(4, 4, 3)

    def test_what_stands_after_eos_does_not_count(self):
        teacher = result_of([5, 6, 7, 8], [2, 1, 0, 3])
        assert shared_states(result_of([5, 6, 6, 6], [1, 0, 0, -1], length=1), teacher) == counts(2, 2, 2)
        assert shared_states(result_of([5, 6, 6, 6], [0, 1, 0, -1], length=1), teacher) == counts(2, 2, 1)
        assert shared_states(result_of([5, 6, 6, 6], [1, 0, 0, -1], length=2), teacher) == counts(2, 0, 0)


def counts(states: int, same: int, path: int) -> dict:
    return {"states": [states], "same_tokens": [same], "on_path": [path]}


def test_the_frontier_has_every_decoder_and_one_token_per_step_for_the_teacher_alone():
    one = subject(SMALL)
    names = list(measure_frontier(one, Cell("a", 1))["decoders"])
    assert names == ["fixed-10", "CAD-0.9", "CAD-0.7"]
    assert [d.name for d in decoders(SMALL, Cell("teacher"))] == ["fixed-40", *names]


def test_transfer_measures_the_canvas_trained_with_first():
    config = replace(SMALL, transfer_block_lengths=(10,), transfer_gen_lengths=(60,))
    shapes = measure_transfer(subject(config))["shapes"]
    assert list(shapes) == ["canvas 40, blocks of 20", "canvas 40, blocks of 10", "canvas 60, blocks of 20"]
    assert all(len(shape["problems"]["right"]) == 6 for shape in shapes.values())
