"""Several blocks open at once with the exact cache and with compiled steps: the same tokens as without."""

from dataclasses import replace
from unittest import mock

import pytest
import torch

from cd4lm.decoding import DecodeResult, MultiBlock, decode, decode_stream
from tests.conftest import BACKBONES, random_model
from tests.decoding.test_multi_block import CONFIG, OPTIONS, POLICIES, SEEDS, assert_same, random_case


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("grid", ["answer", "absolute"])
@pytest.mark.parametrize("backbone", ["llada", "dream"])
class TestExactCache:
    """On a block-causal model: keys and values of finished blocks are kept, those of all open ones recomputed."""

    def case(self, backbone, grid, seed) -> tuple:
        spread = {"llada": "init_std", "dream": "initializer_range"}[backbone]
        changes = {"attention": "block_causal", "block_length": 8, "block_grid": grid, spread: 0.2 + 0.06 * seed}
        generator = torch.Generator().manual_seed(seed)
        prompts = [torch.randint(0, 57, (n,), generator=generator) for n in (3, 16, 21, 1, 7)]
        return BACKBONES[backbone](**changes), prompts

    def test_tokens_passes_and_confidences_are_those_of_recomputing_everything(self, backbone, grid, seed):
        model, prompts = self.case(backbone, grid, seed)
        for i, options in enumerate(OPTIONS):
            policy, config = POLICIES[(i + seed) % len(POLICIES)], replace(CONFIG, gen_length=48, **options)
            wanted = decode(model, prompts, policy, config)
            cached = replace(config, cache="block")
            for batch_size in (2, 5):
                stream = decode_stream(model, prompts, policy, cached, batch_size=batch_size)
                found = DecodeResult.join(list(stream))
                assert_same(found, wanted)
                torch.testing.assert_close(found.confidence, wanted.confidence, atol=1e-4, rtol=0)


def test_blocks_that_are_finished_before_the_one_before_them():
    """What a cache that kept every finished block would get wrong."""
    overtaken = 0
    for seed in range(3):
        model, prompts = random_case(seed, attention="block_causal", block_length=8)
        config = replace(CONFIG, gen_length=48, stop_at_eos=False)
        for policy in POLICIES[1:3]:
            wanted = decode(model, prompts, policy, config)
            assert_same(decode(model, prompts, policy, replace(config, cache="block")), wanted)
            ends = wanted.commit_step.view(5, 6, 8).amax(dim=2)
            overtaken += (ends[:, 1:] < ends[:, :-1]).sum().item()
    assert overtaken > 0


def test_columns_computed_with_the_exact_cache():
    """Open blocks, and the blocks that the step before finished, however many; with the prompt at first."""
    model = random_model(attention="block_causal", block_length=8, init_std=0.3)
    seen, states = [], []
    handle = model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    config = replace(CONFIG, gen_length=48, cache="block", stop_at_eos=False)
    policy = MultiBlock(0.5, 0.1, certainty="confidence")
    decode(model, [torch.arange(10)], policy, config, on_step=lambda c: states.append(c.masked[0].view(6, 8).sum(1)))
    handle.remove()
    front, opened, widths = 0, 1, [18]
    for left in states[:-1]:
        unfinished = left.nonzero()[0].item()
        last = next(i for i in range(6) if 8 - left[i] < 0.1 * 8 or i == 5)
        gained, front, opened = unfinished - front, unfinished, last - unfinished + 1
        widths.append(8 * (gained + opened))
    assert seen == widths and max(widths[1:]) > 16


@pytest.mark.slow
def test_compiled_steps_give_the_same():
    model, prompts = random_case(1, n_layers=1)
    config = replace(CONFIG, gen_length=24, eos_hold_ratio=0.3)
    wanted = decode(model, prompts, POLICIES[2], config)
    static = replace(config, compile=True, length_bucket=64)
    assert_same(DecodeResult.join(list(decode_stream(model, prompts, POLICIES[2], static, batch_size=3))), wanted)


def test_a_compiled_step_has_few_shapes():
    """Powers of two of open and of finished blocks, as static steps ask for; the tokens do not depend on it."""
    model, prompts = random_case(1, attention="block_causal", block_length=8)
    config = replace(CONFIG, gen_length=64, cache="block", stop_at_eos=False)
    wanted = decode(model, prompts, POLICIES[2], config)
    shapes = []
    with mock.patch.object(torch, "compile", lambda function, dynamic: function):  # the same arithmetic, no compiler
        handle = model.register_forward_pre_hook(
            lambda module, args, kwargs: shapes.append((kwargs["input_ids"].shape[1], kwargs["logits_at"].shape[1])),
            with_kwargs=True,
        )
        found = decode(model, prompts, POLICIES[2], replace(config, compile=True, length_bucket=32))
        handle.remove()
    assert_same(found, wanted)
    assert {opened for _, opened in shapes} <= {8, 16, 32, 64} and len({opened for _, opened in shapes}) > 1
    assert {width - opened for width, opened in shapes} <= {0, 8, 16, 32, 64}  # 32: the bucket's room for the prompt
