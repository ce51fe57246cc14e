"""Every exact mode gives the tokens and forwards of the plain loop as published, in float32."""

from dataclasses import replace

import pytest
import torch

from cd4lm.decoding import ConfidenceAdaptive, DecodeConfig, DecodeResult, FixedSteps, decode, decode_stream
from cd4lm.diffusion.noise import row_keys
from cd4lm.diffusion.sampling import propose, propose_published
from tests.conftest import random_model

PLAIN = DecodeConfig(mask_id=59, eos_ids=(57, 3, 12), gen_length=16, block_length=8, stop_at_eos=False, cache="plain")
OPTIONS = [{}, {"eos_hold_ratio": 0.4}, {"temperature": 0.7}, {"cfg_scale": 1.0}]
POLICIES = [ConfidenceAdaptive(threshold=0.5), ConfidenceAdaptive(threshold=0.9, max_tokens=4), FixedSteps(steps=8)]


def random_case(seed: int) -> tuple:
    """A model and ragged prompts."""
    generator = torch.Generator().manual_seed(seed)
    model = random_model(n_kv_heads=(1, 2, 4)[seed % 3], init_std=0.25 + 0.05 * seed)
    sizes = torch.randint(1, 30, (4,), generator=generator).tolist()
    return model, [torch.randint(0, 57, (size,), generator=generator) for size in sizes]


def plain(model, prompts, policy, config: DecodeConfig) -> DecodeResult:
    """One prompt at a time, as published."""
    return DecodeResult.join(
        [replace_index(decode(model, [p], policy, config, row_ids=[i]), i) for i, p in enumerate(prompts)]
    )


def replace_index(result: DecodeResult, i: int) -> DecodeResult:
    return replace(result, index=torch.tensor([i]))


def assert_same(found: DecodeResult, wanted: DecodeResult) -> None:
    assert torch.equal(found.tokens, wanted.tokens) and found.commits == wanted.commits
    assert torch.equal(found.nfe, wanted.nfe) and torch.equal(found.commit_step, wanted.commit_step)
    torch.testing.assert_close(found.confidence, wanted.confidence, atol=1e-5, rtol=1e-4)


def assert_same_before_eos(early: DecodeResult, full: DecodeResult) -> None:
    assert torch.equal(early.lengths, full.lengths) and (early.nfe <= full.nfe).all()
    for i, length in enumerate(full.lengths.tolist()):
        assert torch.equal(early.tokens[i, : length + 1], full.tokens[i, : length + 1])


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_exact_modes_equal_the_plain_loop(seed, options):
    model, prompts = random_case(seed)
    for policy in POLICIES:
        wanted = plain(model, prompts, policy, replace(PLAIN, **options))
        exact = replace(PLAIN, cache="none", **options)
        assert_same(decode(model, prompts, policy, exact), wanted)
        for batch_size in (1, 3):
            assert_same(
                DecodeResult.join(list(decode_stream(model, prompts, policy, exact, batch_size=batch_size))), wanted
            )
        assert_same_before_eos(decode(model, prompts, policy, replace(exact, stop_at_eos=True)), wanted)


@pytest.mark.parametrize("cache", ["prefix", "dual"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_caches_refreshed_at_every_step_equal_the_plain_loop(cache, options):
    for seed in range(3):
        model, prompts = random_case(seed)
        config = replace(PLAIN, cache=cache, refresh_interval=1, **options)
        for policy in POLICIES[::2]:
            wanted = plain(model, prompts, policy, replace(PLAIN, **options))
            assert_same(decode(model, prompts, policy, config), wanted)


@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mask_id", [0, 59, 999])
@pytest.mark.parametrize("spread", [4, 60])  # 60: most exponentials are under the smallest float32
def test_one_pass_readout_equals_the_published_one(temperature, dtype, mask_id, spread):
    logits = (torch.randn(3, 5, 1000) * spread).to(dtype)
    keys, places = row_keys(torch.arange(3), 7), torch.arange(5).expand(3, 5)
    tokens, certainty = propose_published(logits, mask_id, temperature, keys, places)
    for chunk in (1, 7, 256, 5000):
        ours = propose(logits, mask_id, temperature, keys, places, chunk=chunk)
        assert torch.equal(ours[0], tokens)
        torch.testing.assert_close(ours[1], certainty, atol=1e-7, rtol=1e-5)
    assert not (tokens == mask_id).any()


def test_readout_of_a_mask_token_far_above_the_rest_is_zero_and_finite():
    logits = torch.zeros(1, 1, 10)
    logits[..., 4] = 500.0
    tokens, certainty = propose(logits, 4, 0.0, torch.zeros(1, dtype=torch.long))
    assert tokens.item() != 4 and certainty.item() == 0


def test_readout_shows_a_nan():
    logits = torch.zeros(1, 2, 50)
    logits[0, 1, 33] = float("nan")
    _, certainty = propose(logits, 4, 0.0, torch.zeros(1, dtype=torch.long), chunk=8)
    assert certainty.isfinite().tolist() == [[True, False]]


@pytest.mark.slow
class TestCompiled:
    def test_tokens_are_identical_whatever_rows_fill_the_bucket_and_one_compilation_does(self):
        model, prompts = random_case(0)
        exact = replace(PLAIN, cache="none", stop_at_eos=True, eos_hold_ratio=0.3)
        static = replace(exact, compile=True, length_bucket=64)
        frames = torch._dynamo.utils.counters["stats"]
        for number, asked in enumerate((prompts, [p[:3] for p in prompts])):
            wanted = decode(model, asked, POLICIES[0], exact)
            before = frames["unique_graphs"]
            found = DecodeResult.join(list(decode_stream(model, asked, POLICIES[0], static, batch_size=3)))
            assert_same(found, wanted)
            assert (frames["unique_graphs"] > before) == (number == 0)

    @pytest.mark.parametrize("cache", ["prefix", "dual"])
    def test_approximate_caches(self, cache):
        model, prompts = random_case(2)
        config = replace(PLAIN, cache=cache, refresh_interval=3)
        wanted = decode(model, prompts, POLICIES[0], config)
        static = replace(config, compile=True, length_bucket=64)
        assert_same(DecodeResult.join(list(decode_stream(model, prompts, POLICIES[0], static, batch_size=2))), wanted)


def test_rows_of_several_temperatures_are_what_each_is_alone():
    logits, keys = torch.randn(3, 4, 50), torch.arange(3)
    degrees = torch.tensor([0.3, 0.9, 2.0], dtype=torch.float64)
    together = propose(logits, 7, degrees[:, None, None], keys, chunk=16)
    for i, degree in enumerate(degrees.tolist()):
        alone = propose(logits[i : i + 1], 7, degree, keys[i : i + 1], chunk=16)
        for some, one in zip(together, alone, strict=True):
            assert torch.equal(some[i], one[0])
