"""What a position sees under block-causal attention, for every backbone and both grids, and how it is stored."""

import json

import pytest
import torch

from cd4lm.diffusion.attention import block_of
from cd4lm.model import LLaDAConfig
from cd4lm.model.loading import load_model
from tests.conftest import BACKBONES

L, PROMPT, BLOCK = 14, 5, 4
LENGTH = torch.tensor([PROMPT])


def build(backbone: str, grid: str, block_length: int = BLOCK):
    return BACKBONES[backbone](attention="block_causal", block_length=block_length, block_grid=grid)


@pytest.fixture(params=list(BACKBONES))
def backbone(request) -> str:
    return request.param


@pytest.fixture(params=["answer", "absolute"])
def grid(request) -> str:
    return request.param


def test_blocks_of_both_grids():
    positions = torch.arange(L)[None]
    assert block_of(positions, LENGTH, BLOCK).tolist() == [[-1] * 5 + [0] * 4 + [1] * 4 + [2]]
    assert block_of(positions, torch.zeros(1, dtype=torch.long), BLOCK).tolist() == [[i // 4 for i in range(L)]]


def influence(model, **arguments) -> torch.Tensor:
    """Bool (L, L): whether the logits at i change with the token at j."""
    ids = torch.randint(0, 57, (1, L))
    changed = ids.repeat(L, 1)
    changed[range(L), range(L)] = (ids[0] + 1) % 57
    with torch.no_grad():
        logits, other = (model(x, prompt_length=LENGTH.expand(len(x)), **arguments).logits for x in (ids, changed))
    return ((other - logits).abs().amax(dim=-1) > 1e-6).T


def test_a_position_sees_its_block_and_those_before_and_nothing_else(backbone, grid):
    """Later blocks change nothing; the prompt, and each block, see all of themselves. Dream reads the output before."""
    model = build(backbone, grid)
    block = block_of(torch.arange(L)[None], LENGTH * (grid == "answer"), BLOCK)[0]
    reader = (torch.arange(L) - model.config.output_shift).clamp(min=0)
    assert torch.equal(influence(model), block[None, :] <= block[reader][:, None])


def test_the_callers_block_length_counts(backbone, grid):
    seen = influence(build(backbone, grid, block_length=2), block_length=BLOCK)
    assert torch.equal(seen, influence(build(backbone, grid)))


def test_one_block_of_everything_is_bidirectional(backbone):
    ids = torch.randint(0, 57, (2, L))
    causal, plain = build(backbone, "absolute", block_length=L), BACKBONES[backbone]()
    with torch.no_grad():
        torch.testing.assert_close(causal(ids).logits, plain(ids).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("left,right", [(5, 0), (0, 3), (2, 2)])
def test_padding_on_either_side_changes_nothing(backbone, grid, left, right):
    model, ids = build(backbone, grid), torch.randint(0, 57, (2, L))
    padded = torch.nn.functional.pad(ids, (left, right), value=7)
    real = torch.nn.functional.pad(torch.ones_like(ids), (left, right), value=0)
    lengths = torch.tensor([PROMPT, 3])
    with torch.no_grad():
        alone = model(ids, prompt_length=lengths).logits
        within = model(padded, real, prompt_length=lengths).logits
    assert within.isfinite().all()
    torch.testing.assert_close(within[:, left : left + L], alone, atol=2e-5, rtol=1e-5)


def test_logits_at_chosen_rows_only(backbone, grid):
    model, ids = build(backbone, grid), torch.randint(0, 57, (2, L))
    lengths, at = torch.tensor([PROMPT, 3]), torch.tensor([[1, 4, 9], [0, 2, 13]])
    full = model(ids, prompt_length=lengths).logits
    some = model(ids, logits_at=at, prompt_length=lengths).logits
    torch.testing.assert_close(some, full.gather(1, at[..., None].expand(-1, -1, 60)), atol=2e-5, rtol=1e-5)
    flags = torch.rand(2, L) < 0.4
    torch.testing.assert_close(model(ids, logits_at=flags, prompt_length=lengths).logits, full[flags])


def test_the_checkpoint_remembers(backbone, grid, tmp_path):
    model, ids = build(backbone, grid), torch.randint(0, 57, (1, L))
    model.save_pretrained(tmp_path / "causal")
    loaded = load_model(tmp_path / "causal", dtype=torch.float32)
    wanted = {"attention": "block_causal", "block_length": BLOCK, "block_grid": grid}
    assert {name: vars(loaded.config)[name] for name in wanted} == wanted
    torch.testing.assert_close(loaded(ids, prompt_length=LENGTH).logits, model(ids, prompt_length=LENGTH).logits)
    loaded.config.set_attention("bidirectional")
    loaded.save_pretrained(tmp_path / "stock")
    assert not wanted.keys() & json.loads((tmp_path / "stock/config.json").read_text()).keys()


def test_values_that_do_not_fit_are_refused():
    for fields, message in [
        ({"attention": "causal"}, "attention='causal' is unknown"),
        ({"attention": "block_causal"}, "block_length=None must be at least 1"),
        ({"attention": "block_causal", "block_length": 4, "block_grid": "free"}, "block_grid='free' is unknown"),
        ({"block_length": 4}, "mean nothing with attention='bidirectional'"),
    ]:
        with pytest.raises(ValueError, match=message):
            LLaDAConfig(**fields)
    with pytest.raises(ValueError, match="pass prompt_length"):
        build("llada", "answer")(torch.ones(1, 3, dtype=torch.long))
