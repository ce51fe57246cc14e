"""The approximate caches: what they recompute, that rows do not touch each other, and that they are approximate."""

from dataclasses import replace

import pytest
import torch

from cd4lm.decoding import ConfidenceAdaptive, DecodeConfig, DecodeResult, FixedSteps, decode, decode_stream
from tests.conftest import random_model

CONFIG = DecodeConfig(mask_id=59, eos_ids=(57,), gen_length=32, block_length=8, stop_at_eos=False)
POLICY = ConfidenceAdaptive(threshold=0.5)


@pytest.mark.parametrize("cache", ["prefix", "dual"])
@pytest.mark.parametrize("options", [{}, {"refresh_interval": 3}, {"cfg_scale": 1.0}, {"temperature": 0.6}], ids=str)
def test_batching_padding_and_streaming_change_nothing(model, prompts, cache, options):
    config = replace(CONFIG, cache=cache, **options)
    together = decode(model, prompts, POLICY, config)
    stream = DecodeResult.join(list(decode_stream(model, prompts, POLICY, config, batch_size=2)))
    assert torch.equal(stream.tokens, together.tokens) and stream.commits == together.commits
    for i, prompt in enumerate(prompts):
        alone = decode(model, [prompt], POLICY, config, row_ids=[i])
        assert torch.equal(alone.tokens[0], together.tokens[i]) and alone.commits[0] == together.commits[i]


def widths(model, prompt, config, policy) -> list[int]:
    """Columns computed in each forward of one prompt."""
    seen = []
    handle = model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    decode(model, [prompt], policy, config)
    handle.remove()
    return seen


@pytest.mark.parametrize(
    "cache,interval,wanted",
    [
        ("none", None, [42] * 16),
        ("prefix", None, [42, 32, 32, 32, 42, 24, 24, 24, 42, 16, 16, 16, 42, 8, 8, 8]),
        ("dual", None, [42, 8, 8, 8] * 4),
        ("dual", 2, [42, 8] * 8),
        ("dual", 1, [42] * 16),
    ],
)
def test_columns_recomputed(model, cache, interval, wanted):
    config = replace(CONFIG, cache=cache, refresh_interval=interval)
    assert widths(model, torch.arange(10), config, FixedSteps(steps=16)) == wanted


def canvas_logits(model, x, cache):
    return model(input_ids=x, cache=cache).logits


@pytest.mark.parametrize("cache", ["prefix", "dual"])
def test_stored_keys_and_values_are_those_of_the_last_forward_that_wrote_them(model, cache):
    """Against a reimplementation in three lines: attention over keys of two canvases, old and new."""
    from cd4lm.decoding.caches import CLASSES

    old, new = torch.randint(0, 57, (1, 20)), torch.randint(0, 57, (1, 20))
    store = CLASSES[cache](replace(CONFIG, gen_length=16, cache=cache)).rearranged(model, (), 1, 20)
    at = torch.arange(4, 12)[None]
    true, false = torch.tensor([True]), torch.tensor([False])
    with torch.no_grad():
        store.logits(model, old, None, at, true, store.plan([0], [True], 20, True))
        first = store.keys.clone()
        store.logits(model, new, None, at, false, store.plan([0], [False], 20, True))
    changed = (store.keys != first).any(dim=(0, 1, 2, 4))
    wanted = torch.zeros(21, dtype=torch.bool)
    wanted[4 : 20 if cache == "prefix" else 12] = True
    assert torch.equal(changed, wanted)


def test_reuse_is_approximate(prompts):
    """On this model some answers differ: a cache that never did would not be reusing anything."""
    model = random_model(init_std=0.5)
    exact = decode(model, prompts, POLICY, CONFIG)
    for cache in ("prefix", "dual"):
        approximate = decode(model, prompts, POLICY, replace(CONFIG, cache=cache))
        assert not torch.equal(approximate.tokens, exact.tokens)
        first = exact.commits[0][0]  # the first step is a refresh, hence exact
        assert approximate.commits[0][0] == first


@pytest.mark.parametrize("cache", ["plain", "none", "prefix", "dual"])
def test_nfe_counts_the_forwards_a_row_takes_part_in(model, prompts, cache):
    config, rows = replace(CONFIG, cache=cache), []
    handle = model.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(kwargs["input_ids"].shape[0]), with_kwargs=True
    )
    result = decode(model, prompts, POLICY, config)
    handle.remove()
    assert result.nfe.sum().item() == sum(rows)
    for row, nfe in zip(result.commits, result.nfe.tolist(), strict=True):
        assert len(row) == nfe and sum(row) == 32


def test_bad_settings():
    for changes, message in [
        ({"refresh_interval": 0, "cache": "dual"}, "refresh_interval=0"),
        ({"refresh_interval": 2}, "refresh_interval means nothing with cache='none'"),
        ({"infill": True, "cache": "prefix"}, "infill needs"),
        ({"length_bucket": 0}, "length_bucket=0"),
    ]:
        with pytest.raises(ValueError, match=message):
            replace(CONFIG, **changes)
