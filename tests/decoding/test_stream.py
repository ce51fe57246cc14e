"""Streams of prompts: bounded memory, padding that shrinks, out of memory, infilling."""

from dataclasses import replace

import pytest
import torch

from cd4lm.decoding import ConfidenceAdaptive, DecodeConfig, DecodeResult, FixedSteps, decode, decode_stream

CONFIG = DecodeConfig(mask_id=59, eos_ids=(57, 3), gen_length=16, block_length=8)
POLICY = ConfidenceAdaptive(threshold=0.5)


def ragged(count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    sizes = torch.randint(1, 40, (count,), generator=generator).tolist()
    return [torch.randint(0, 57, (size,), generator=generator) for size in sizes]


def test_200_prompts_through_batch_8_in_bounded_memory(model):
    prompts, taken, done, rows = ragged(200), [], [], []

    def source():
        for i, prompt in enumerate(prompts):
            taken.append(i)
            assert len(taken) - len(done) <= 8, "more prompts are held than the batch has rows"
            yield prompt

    parts = []
    for part in decode_stream(
        model,
        source(),
        POLICY,
        CONFIG,
        batch_size=8,
        on_step=lambda c: rows.append((tuple(c.index.tolist()), c.x.shape[1])),
    ):
        done += part.index.tolist()
        parts.append(part)
    assert sorted(done) == list(range(200))
    for index, length in rows:
        assert length == max(prompts[i].numel() for i in index) + 16  # padding goes when the long prompt has gone
    result = DecodeResult.join(parts)
    for i in range(0, 200, 7):
        alone = decode(model, [prompts[i]], POLICY, CONFIG)
        assert torch.equal(result.tokens[i], alone.tokens[0]) and result.nfe[i] == alone.nfe[0]


def test_prompts_of_one_length_need_no_mask(model):
    masks = []
    handle = model.register_forward_pre_hook(
        lambda module, args, kwargs: masks.append(kwargs["attention_mask"]), with_kwargs=True
    )
    same = [torch.arange(5), torch.arange(5) + 7]
    decode(model, same, POLICY, CONFIG)
    assert all(mask is None for mask in masks)
    masks.clear()
    list(decode_stream(model, [*same, torch.arange(9)], POLICY, CONFIG, batch_size=3))
    handle.remove()
    assert masks[0] is not None


class Memory:
    """A forward hook that runs out of memory when a batch is larger than it allows, `times` times."""

    def __init__(self, rows: int, times: int):
        self.rows, self.times = rows, times

    def __call__(self, module, args, kwargs):
        if kwargs["input_ids"].shape[0] > self.rows and self.times > 0:
            self.times -= 1
            raise torch.OutOfMemoryError("CUDA out of memory (injected)")


@pytest.mark.parametrize("cache", ["none", "dual"])
def test_out_of_memory_halves_the_batch_once_and_loses_nothing(model, cache):
    prompts, config = ragged(20), replace(CONFIG, cache=cache)
    wanted = decode(model, prompts, POLICY, config)
    memory = Memory(rows=4, times=100)
    handle = model.register_forward_pre_hook(memory, with_kwargs=True)
    with pytest.warns(UserWarning, match="batches of 4"):
        found = DecodeResult.join(list(decode_stream(model, prompts, POLICY, config, batch_size=8)))
    handle.remove()
    assert memory.times == 99
    assert torch.equal(found.index, wanted.index) and torch.equal(found.tokens, wanted.tokens)
    assert torch.equal(found.nfe, wanted.nfe)


def test_out_of_memory_in_the_middle_of_a_stream(model):
    prompts, steps = ragged(20), []
    wanted = decode(model, prompts, POLICY, CONFIG)

    def late(module, args, kwargs):
        steps.append(kwargs["input_ids"].shape[0])
        if len(steps) == 12:
            raise torch.OutOfMemoryError("CUDA out of memory (injected)")

    handle = model.register_forward_pre_hook(late, with_kwargs=True)
    with pytest.warns(UserWarning, match="batches of 3"):
        found = DecodeResult.join(list(decode_stream(model, prompts, POLICY, CONFIG, batch_size=6)))
    handle.remove()
    assert max(steps[12:]) <= 3
    assert torch.equal(found.tokens, wanted.tokens)


@pytest.mark.filterwarnings("ignore:out of memory")
@pytest.mark.parametrize("batch_size", [1, 8])
def test_out_of_memory_again_stops(model, batch_size):
    handle = model.register_forward_pre_hook(Memory(rows=0, times=100), with_kwargs=True)
    with pytest.raises(torch.OutOfMemoryError, match="use fewer or shorter rows"):
        list(decode_stream(model, ragged(9), POLICY, CONFIG, batch_size=batch_size))
    handle.remove()


class TestInfilling:
    CONFIG = replace(CONFIG, infill=True, stop_at_eos=False)

    def holes(self) -> list[torch.Tensor]:
        """Prompts with 0, 3 and 11 masks, the last beginning and ending with one."""
        prompts = [p.clone() for p in (torch.arange(6), torch.arange(20), torch.arange(30))]
        prompts[1][[2, 5, 19]] = 59
        prompts[2][[0, 1, 4, 5, 6, 9, 12, 15, 18, 20, 29]] = 59
        return prompts

    @pytest.mark.parametrize("policy", [POLICY, FixedSteps(steps=8)], ids=str)
    def test_all_masks_are_answered_and_the_rest_is_left_alone(self, model, policy):
        prompts = self.holes()
        result = decode(model, prompts, policy, self.CONFIG)
        for i, (before, after) in enumerate(zip(prompts, result.prompts, strict=True)):
            assert not (after == 59).any() and not (result.tokens[i] == 59).any()
            assert torch.equal(after[before != 59], before[before != 59])
            assert sum(result.commits[i]) == 16 + (before == 59).sum() and min(result.commits[i]) >= 1
            alone = decode(model, [before], policy, self.CONFIG, row_ids=[i])
            assert torch.equal(alone.prompts[0], after) and torch.equal(alone.tokens[0], result.tokens[i])
            assert alone.commits[0] == result.commits[i]

    def test_prompt_masks_come_before_the_answer(self, model):
        frames = []
        decode(model, self.holes()[2:], POLICY, self.CONFIG, on_step=lambda c: frames.append(c.x.clone()))
        for x in frames:
            if (x[0, :30] == 59).any():
                assert (x[0, 30:] == 59).all()

    def test_without_masks_nothing_changes(self, model):
        prompts = ragged(3)
        off = decode(model, prompts, POLICY, replace(self.CONFIG, infill=False))
        on = decode(model, prompts, POLICY, self.CONFIG)
        assert torch.equal(on.tokens, off.tokens) and on.commits == off.commits

    def test_in_a_stream(self, model):
        prompts = self.holes() + ragged(3) + self.holes()
        wanted = decode(model, prompts, POLICY, replace(self.CONFIG, stop_at_eos=True))
        stream = decode_stream(model, prompts, POLICY, replace(self.CONFIG, stop_at_eos=True), batch_size=2)
        found = DecodeResult.join(list(stream))
        assert torch.equal(found.tokens, wanted.tokens) and found.commits == wanted.commits
        assert all(torch.equal(a, b) for a, b in zip(found.prompts, wanted.prompts, strict=True))


def test_bad_prompts_and_settings(model):
    with pytest.raises(ValueError, match="prompt 1 has entries outside"):
        decode(model, [torch.tensor([1]), torch.tensor([60])], POLICY, CONFIG)
    with pytest.raises(ValueError, match="eos_ids=77 is outside the vocabulary"):
        decode(model, [torch.tensor([1])], POLICY, replace(CONFIG, eos_ids=(77,)))
    with pytest.raises(ValueError, match="infill=True"):
        decode(model, [torch.tensor([59])], POLICY, CONFIG)


def test_nothing_left_behind_when_a_stream_is_dropped(model):
    stream = decode_stream(model, ragged(20), POLICY, CONFIG, batch_size=4)
    next(stream)
    stream.close()
