"""The exact cache of block-causal models: what it gives is what recomputing everything gives."""

from dataclasses import replace

import pytest
import torch

from cd4lm.decoding import ConfidenceAdaptive, DecodeConfig, DecodeResult, FixedSteps, decode, decode_stream
from cd4lm.decoding.caches import CLASSES
from tests.conftest import BACKBONES, random_model

CONFIG = DecodeConfig(mask_id=59, eos_ids=(57, 3, 12), gen_length=24, block_length=8)
POLICY = ConfidenceAdaptive(threshold=0.5)


def build(backbone: str, grid: str, **changes):
    return BACKBONES[backbone](attention="block_causal", block_length=8, block_grid=grid, **changes)


def ragged(seed: int) -> list[torch.Tensor]:
    """Prompts shorter than a block, of whole blocks, and in between."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 57, (n,), generator=generator) for n in (3, 16, 21, 1, 7)]


class Spy(ConfidenceAdaptive):
    """CAD that keeps the logits of what may be committed."""

    def score(self, view):
        self.seen.append(view.logits[view.masked])
        return super().score(view)


def run(model, prompts, config: DecodeConfig) -> tuple[DecodeResult, torch.Tensor]:
    spy = Spy(threshold=0.5)
    object.__setattr__(spy, "seen", [])
    result = decode(model, prompts, spy, config)
    return result, torch.cat(spy.seen)


def assert_same(found: DecodeResult, wanted: DecodeResult) -> None:
    assert torch.equal(found.tokens, wanted.tokens) and found.commits == wanted.commits
    assert torch.equal(found.nfe, wanted.nfe) and torch.equal(found.lengths, wanted.lengths)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("grid", ["answer", "absolute"])
@pytest.mark.parametrize("backbone", list(BACKBONES))
def test_tokens_and_logits_are_those_of_recomputing_everything(backbone, grid, seed):
    spread = "init_std" if backbone == "llada" else "initializer_range"
    model, prompts = build(backbone, grid, **{spread: 0.25 + 0.05 * seed}), ragged(seed)
    for options in ({}, {"stop_at_eos": False}):
        wanted, logits = run(model, prompts, replace(CONFIG, **options))
        found, cached = run(model, prompts, replace(CONFIG, cache="block", **options))
        assert_same(found, wanted)
        torch.testing.assert_close(cached, logits, atol=1e-4, rtol=0)
    assert (wanted.commit_step >= 0).all() and not (wanted.tokens == 59).any()


@pytest.mark.parametrize("grid", ["answer", "absolute"])
@pytest.mark.parametrize("options", [{"cfg_scale": 1.0}, {"temperature": 0.7}, {"eos_hold_ratio": 0.4}], ids=str)
def test_options_batches_and_streams_change_nothing(grid, options):
    model, prompts = build("dream", grid), ragged(3)
    cached = replace(CONFIG, cache="block", **options)
    together = decode(model, prompts, POLICY, cached)
    assert_same(together, decode(model, prompts, POLICY, replace(cached, cache="none")))
    assert_same(DecodeResult.join(list(decode_stream(model, prompts, POLICY, cached, batch_size=2))), together)
    for i, prompt in enumerate(prompts):
        alone = decode(model, [prompt], POLICY, cached, row_ids=[i])
        assert torch.equal(alone.tokens[0], together.tokens[i]) and alone.commits[0] == together.commits[i]


def forwards(model, prompts, policy, config) -> tuple[DecodeResult, list[tuple[int, int]]]:
    """The result, and rows and columns of every forward."""
    seen = []
    handle = model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    result = decode(model, prompts, policy, config)
    handle.remove()
    return result, seen


@pytest.mark.parametrize(
    "backbone,widths",
    [("llada", [18, 8, 16, 8, 16, 8]), ("dream", [19, 9, 17, 9, 17, 9]), ("illada", [18, 8, 16, 8, 16, 8])],
    ids=["llada", "dream", "illada"],
)
def test_columns_computed(backbone, widths):
    """Prompt and first block; a block; the block before and a new one. Dream reads one column more."""
    model, config = build(backbone, "answer"), replace(CONFIG, cache="block", stop_at_eos=False)
    result, seen = forwards(model, [torch.arange(10)], FixedSteps(steps=6), config)
    assert [width for _, width in seen] == widths and result.nfe.item() == 6


@pytest.mark.parametrize("grid", ["answer", "absolute"])
def test_nfe_counts_the_forwards_a_row_takes_part_in(grid):
    result, seen = forwards(build("llada", grid), ragged(0), POLICY, replace(CONFIG, cache="block"))
    assert result.nfe.sum().item() == sum(rows for rows, _ in seen)


def test_blocks_of_the_absolute_grid_share_one_with_the_prompt():
    """After a prompt of 5, blocks of 8 leave 3 tokens to the first and 5 to the last."""
    model = build("llada", "absolute")
    config = replace(CONFIG, stop_at_eos=False, gen_length=16)
    result = decode(model, [torch.arange(5)], FixedSteps(steps=2), config)
    assert result.commit_step[0].tolist() == [0] * 3 + [1] * 8 + [2] * 5


def test_later_blocks_do_not_change_earlier_answers():
    """Decoding twice the length begins with the same tokens."""
    model, prompts = build("llada", "answer"), ragged(1)
    short = decode(model, prompts, POLICY, replace(CONFIG, cache="block", stop_at_eos=False))
    long = decode(model, prompts, POLICY, replace(CONFIG, cache="block", stop_at_eos=False, gen_length=48))
    assert torch.equal(long.tokens[:, :24], short.tokens)


@pytest.mark.parametrize("cache", ["prefix", "dual"])
@pytest.mark.parametrize("backbone", list(BACKBONES))
def test_approximate_caches_read_what_a_block_needs(backbone, cache):
    """With nothing changed since the whole canvas was stored, a partial forward gives the same logits.

    Dream needs the column before a block too.
    """
    model = BACKBONES[backbone]()
    x, at = torch.randint(0, 57, (2, 20)), torch.arange(4, 12).expand(2, -1)
    store = CLASSES[cache](replace(CONFIG, gen_length=16, cache=cache)).rearranged(model, (), 2, 20)
    with torch.no_grad():
        whole, part = (
            store.logits(model, x, None, at, torch.tensor([full] * 2), store.plan([0, 0], [full] * 2, 20, True))
            for full in (True, False)
        )
        torch.testing.assert_close(whole, model(x).logits[:, 4:12], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(part, whole, atol=1e-5, rtol=1e-5)
    always = replace(CONFIG, cache=cache, refresh_interval=1)
    assert_same(decode(model, ragged(2), POLICY, always), decode(model, ragged(2), POLICY, CONFIG))


@pytest.mark.parametrize("cache", ["none", "plain"])
@pytest.mark.parametrize("backbone", ["dream", "illada"])
def test_other_backbones_decode_bidirectionally(backbone, cache):
    model, prompts = BACKBONES[backbone](), ragged(4)
    together = decode(model, prompts, POLICY, replace(CONFIG, cache=cache))
    assert not (together.tokens == 59).any()
    for i, prompt in enumerate(prompts):
        assert torch.equal(decode(model, [prompt], POLICY, CONFIG).tokens[0], together.tokens[i])


class TestRefused:
    def test_on_a_bidirectional_checkpoint(self, model):
        with pytest.raises(ValueError, match="cache='block' needs a block-causal checkpoint"):
            decode(model, ragged(0), POLICY, replace(CONFIG, cache="block"))

    def test_approximate_caches_where_the_exact_one_is(self):
        with pytest.raises(ValueError, match="use 'block', which is exact here"):
            decode(build("llada", "answer"), ragged(0), POLICY, replace(CONFIG, cache="dual"))

    def test_infilling(self):
        with pytest.raises(ValueError, match="infill needs a cache that recomputes everything"):
            replace(CONFIG, cache="block", infill=True)
        with pytest.raises(ValueError, match="these count from position 0"):
            decode(build("llada", "absolute"), ragged(0), POLICY, replace(CONFIG, infill=True))

    def test_another_block_length_is_warned_about_and_still_exact(self):
        model = build("llada", "answer")
        with pytest.warns(UserWarning, match="block_length=12 is not the 8"):
            wanted = decode(model, ragged(0), POLICY, replace(CONFIG, block_length=12))
        with pytest.warns(UserWarning, match="trained with"):
            assert_same(decode(model, ragged(0), POLICY, replace(CONFIG, block_length=12, cache="block")), wanted)


@pytest.mark.slow
def test_compiled_steps_give_the_same():
    model, prompts = build("dream", "absolute"), ragged(0)
    wanted = decode(model, prompts, POLICY, CONFIG)
    static = replace(CONFIG, cache="block", compile=True, length_bucket=64)
    assert_same(DecodeResult.join(list(decode_stream(model, prompts, POLICY, static, batch_size=2))), wanted)


def test_infilling_on_the_answer_grid():
    """The prompt is one block: its masks are answered before the answer's blocks, with the prompt all visible."""
    model, prompt = build("llada", "answer"), torch.tensor([4, 59, 6, 59, 8])
    result = decode(model, [prompt], POLICY, replace(CONFIG, infill=True))
    assert not (result.prompts[0] == 59).any() and not (result.tokens == 59).any()


def test_the_model_at_hand_differs_from_a_bidirectional_one():
    """Otherwise the comparisons above would show nothing."""
    causal, plain = build("llada", "answer"), random_model()
    wanted = decode(plain, ragged(0), POLICY, CONFIG)
    assert not torch.equal(decode(causal, ragged(0), POLICY, CONFIG).tokens, wanted.tokens)
