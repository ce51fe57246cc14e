"""The engine against the published runs, and the properties of every policy and option."""

import json

import pytest
import torch

from cd4lm.decoding import (
    ConfidenceAdaptive,
    DecodeConfig,
    DecodeResult,
    EntropyAdaptive,
    EntropyBounded,
    FactorAdaptive,
    FixedSteps,
    StepBudget,
    decode,
    decode_stream,
)
from cd4lm.model import LLaDAModelLM
from tests.conftest import random_model

POLICIES = [
    FixedSteps(steps=16),
    FixedSteps(steps=16, remasking="random"),
    ConfidenceAdaptive(threshold=0.6),
    ConfidenceAdaptive(threshold=0.9, min_tokens=2, max_tokens=4, max_steps_per_block=3),
    EntropyAdaptive(threshold=-1.0),
    FactorAdaptive(factor=1.0),
    EntropyBounded(gamma=1.5),
    StepBudget(tokens=3),
]
OPTIONS = [
    {},
    {"stop_at_eos": False},
    {"eos_hold_ratio": 0.4},
    {"temperature": 0.8},
    {"cfg_scale": 1.5},
]


def config(**changes) -> DecodeConfig:
    """For the random model; many EOS tokens make early stops frequent."""
    return DecodeConfig(**({"mask_id": 59, "eos_ids": (57, 3, 12), "gen_length": 32, "block_length": 8} | changes))


def policy_of(case: dict):
    if case["kind"] == "fixed":
        return FixedSteps(steps=case["steps"])
    limits = {"min_tokens": case["min_tokens_per_step"], "max_tokens": case["max_tokens_per_step"]}
    if case["kind"] == "cad_entropy":
        return EntropyAdaptive(case["entropy_threshold"], **limits)
    limits["max_steps_per_block"] = case.get("max_steps_per_block")
    return ConfidenceAdaptive(case["confidence_threshold"], **limits)


def run_published(model, case: dict) -> None:
    settings = DecodeConfig(
        mask_id=159,
        eos_ids=(151,),
        gen_length=case["gen_length"],
        block_length=case["block_length"],
        cfg_scale=case.get("cfg_scale", 0.0),
        eos_hold_ratio=case.get("eos_threshold_ratio", 0.0),
        stop_at_eos=False,
    )
    result = decode(model, [torch.tensor(case["prompt"])], policy_of(case), settings)
    assert result.tokens[0].tolist() == case["output"]
    assert result.nfe.item() == case["nfe"]
    assert result.commits[0] == case.get("tokens_per_step", result.commits[0])


def test_published_runs(reference):
    model = LLaDAModelLM.from_pretrained(reference).eval()
    cases = [c for c in json.loads((reference / "decoding.json").read_text()) if c.get("steps") != 4]
    assert len(cases) > 40
    for case in cases:
        run_published(model, case)


def test_published_runs_with_eos_held_back(reference):
    model = LLaDAModelLM.from_pretrained(reference).eval()
    runs = json.loads((reference / "decoding_eos.json").read_text())
    with torch.no_grad():
        model.get_output_embeddings().weight[151] = torch.tensor(runs["eos_row"])
    for case in runs["cases"]:
        run_published(model, case)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("policy", POLICIES, ids=str)
class TestEveryPolicyAndOption:
    def test_batching_and_padding_change_nothing(self, model, prompts, policy, options):
        together = decode(model, prompts, policy, config(**options))
        for i, prompt in enumerate(prompts):
            alone = decode(model, [prompt], policy, config(**options), row_ids=[i])
            assert torch.equal(alone.tokens[0], together.tokens[i])
            assert alone.commits[0] == together.commits[i]
            assert alone.nfe[0] == together.nfe[i]

    def test_a_stream_gives_what_a_batch_gives(self, model, prompts, policy, options):
        batch = decode(model, prompts, policy, config(**options))
        parts = list(decode_stream(model, iter(prompts), policy, config(**options), batch_size=2))
        assert max(len(part.index) for part in parts) <= 2
        stream = DecodeResult.join(parts)
        assert torch.equal(stream.tokens, batch.tokens) and stream.commits == batch.commits

    def test_progress_and_no_mask_left(self, model, prompts, policy, options):
        result = decode(model, prompts, policy, config(**options))
        assert not (result.tokens == 59).any()
        for row, nfe in zip(result.commits, result.nfe.tolist(), strict=True):
            assert len(row) == nfe and min(row) >= 1

    def test_same_seed_same_result(self, model, prompts, policy, options):
        first, second = (decode(model, prompts, policy, config(**options)) for _ in range(2))
        assert torch.equal(first.tokens, second.tokens)


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_nfe_counts_forwards(model, prompts, policy):
    forwards = []
    model.register_forward_hook(lambda *_: forwards.append(1))
    result = decode(model, prompts[:1], policy, config())
    assert result.nfe.item() == len(forwards)
    forwards.clear()
    result = decode(model, prompts, policy, config())
    assert result.nfe.max().item() == len(forwards)


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_early_stop_keeps_everything_before_eos(model, prompts, policy):
    full = decode(model, prompts, policy, config(stop_at_eos=False))
    early = decode(model, prompts, policy, config())
    assert torch.equal(full.lengths, early.lengths)
    assert (early.nfe <= full.nfe).all() and (early.nfe < full.nfe).any()
    for i, length in enumerate(full.lengths.tolist()):
        assert torch.equal(full.tokens[i, : length + 1], early.tokens[i, : length + 1])
        assert (early.tokens[i, length:] == early.tokens[i, min(length, 31)]).all()


def test_prompts_are_left_alone(model, prompts):
    before = [p.clone() for p in prompts]
    seen = []
    decode(model, prompts, FixedSteps(steps=4), config(), on_step=lambda c: seen.append((c.index.clone(), c.x.clone())))
    assert all(torch.equal(a, b) for a, b in zip(before, prompts, strict=True))
    for index, x in seen:
        for row, i in zip(x, index.tolist(), strict=True):
            assert torch.equal(row[: x.shape[1] - 32][-len(prompts[i]) :], prompts[i])


def test_fixed_steps_split_the_block_evenly(model, prompts):
    result = decode(model, prompts[:1], FixedSteps(steps=12), config(stop_at_eos=False))
    assert result.commits[0] == [3, 3, 2] * 4


def test_cad_at_threshold_one_takes_one_token_per_step(model, prompts):
    result = decode(model, prompts, ConfidenceAdaptive(threshold=1.0), config(stop_at_eos=False))
    assert all(row == [1] * 32 for row in result.commits)


def test_a_lower_threshold_never_commits_fewer_at_the_first_step(model, prompts):
    first = [
        decode(model, prompts, ConfidenceAdaptive(threshold=t), config(stop_at_eos=False)).commits
        for t in (0.95, 0.7, 0.4, 0.2)
    ]
    for rows in zip(*first, strict=True):
        counts = [row[0] for row in rows]
        assert counts == sorted(counts)


class Spy(ConfidenceAdaptive):
    """CAD that remembers what it was shown."""

    def score(self, view):
        self.views.append(view)
        return super().score(view)


def test_eos_is_held_back_until_its_share(model, prompts):
    held_steps = 0
    for prompt in prompts:
        spy = Spy(threshold=0.7)
        object.__setattr__(spy, "views", [])
        result = decode(model, [prompt], spy, config(eos_hold_ratio=0.5, stop_at_eos=False))
        committed, start = 0, 0
        for step, view in enumerate(spy.views):
            held = (view.masked & ~view.candidates)[0]
            now = (result.commit_step[0] == step)[start : start + 8]
            assert committed < 16 or not held.any()
            assert not (held & now).any() or not view.candidates.any()
            held_steps += held.any().item()
            committed += now.sum().item()
            start = committed // 8 * 8 if (view.masked[0] & ~now).sum() == 0 else start
    assert held_steps > 5


def test_all_candidates_held_back_commits_the_most_confident():
    model = random_model()
    with torch.no_grad():  # every position now predicts EOS 57
        model.get_output_embeddings().weight[:] = 0
        model.get_output_embeddings().weight[57] = 0
    settings = config(eos_ids=tuple(range(59)), eos_hold_ratio=1.0, stop_at_eos=False)
    result = decode(model, [torch.tensor([1, 2])], ConfidenceAdaptive(threshold=0.5), settings)
    assert result.commits[0] == [1] * 32


def test_temperature_samples_the_distribution():
    """Frequencies of the first committed token over many rows match the softmax of its logits."""
    model = random_model(init_std=0.1)
    settings = DecodeConfig(mask_id=59, gen_length=1, block_length=1, temperature=1.0)
    rows = 4000
    result = decode(model, [torch.tensor([5, 6])] * rows, FixedSteps(steps=1), settings)
    with torch.no_grad():
        logits = model(torch.tensor([[5, 6, 59]])).logits[0, 2]
    logits[59] = float("-inf")
    wanted = logits.softmax(-1)
    counts = torch.bincount(result.tokens[:, 0], minlength=60)
    z = (counts - rows * wanted) / (rows * wanted * (1 - wanted)).clamp(min=1e-9).sqrt()
    assert z[:59].abs().max() < 4.5


def test_the_mask_token_is_never_committed(prompts):
    model = random_model()
    with torch.no_grad():
        model.get_output_embeddings().weight[59] *= 50
    for temperature in (0.0, 1.0):
        assert not (decode(model, prompts, FixedSteps(8), config(temperature=temperature)).tokens == 59).any()


def test_confidence_and_commit_steps_are_recorded(model, prompts):
    result = decode(model, prompts, ConfidenceAdaptive(threshold=0.6), config())
    committed = result.commit_step >= 0
    assert (result.confidence[committed] > 0).all() and (result.confidence[~committed] == 0).all()
    for i, row in enumerate(result.commits):
        assert sum(row) == committed[i].sum()


class TestBadInput:
    def test_settings(self):
        for changes, message in [
            ({"gen_length": 30}, "not a multiple of block_length"),
            ({"temperature": -1.0}, "temperature"),
            ({"eos_hold_ratio": 1.5}, "eos_hold_ratio"),
            ({"cache": "magic"}, "cache='magic'"),
            ({"cfg_scale": -1.0}, "cfg_scale"),
        ]:
            with pytest.raises(ValueError, match=message):
                config(**changes)

    def test_policies(self):
        for make, message in [
            (lambda: ConfidenceAdaptive(threshold=1.5), "threshold=1.5"),
            (lambda: EntropyAdaptive(threshold=0.5), "threshold=0.5"),
            (lambda: FixedSteps(steps=0), "steps=0"),
            (lambda: FixedSteps(remasking="best"), "remasking='best'"),
            (lambda: ConfidenceAdaptive(min_tokens=5, max_tokens=4), "min_tokens=5"),
        ]:
            with pytest.raises(ValueError, match=message):
                make()

    def test_steps_that_do_not_fit_the_blocks(self, model, prompts):
        with pytest.raises(ValueError, match="steps=6 must be a multiple"):
            decode(model, prompts, FixedSteps(steps=6), config())

    def test_prompts(self, model):
        ok = torch.tensor([1, 2])
        for prompts, message in [
            ([], "no prompts"),
            ([ok, torch.tensor([], dtype=torch.long)], "prompt 1 is empty"),
            ([torch.ones(100, dtype=torch.long)], "leave room for 96"),
            ([torch.tensor([1, 59])], "contains the mask token"),
        ]:
            with pytest.raises(ValueError, match=message):
                decode(model, prompts, FixedSteps(steps=4), config())

    def test_mask_outside_the_vocabulary(self, model):
        with pytest.raises(ValueError, match="outside the vocabulary"):
            decode(model, [torch.tensor([1])], FixedSteps(steps=4), config(mask_id=1000))

    def test_non_finite_logits_stop_with_row_and_step(self, model, prompts):
        with torch.no_grad():
            model.get_output_embeddings().weight[4, 0] = float("nan")
        with pytest.raises(FloatingPointError, match="prompt 0 are not finite at step 1"):
            decode(model, prompts, FixedSteps(steps=4), config())
