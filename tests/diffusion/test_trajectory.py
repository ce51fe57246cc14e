"""Pairs of states on a recorded path: what is masked in each, and what lies between."""

import pytest
import torch

from cd4lm.diffusion.noise import row_keys
from cd4lm.diffusion.trajectory import path_window, trajectory_pair

B, PROMPT, G, BLOCK = 400, 3, 12, 4


@pytest.fixture
def order():
    """Paths of one token per step, blocks left to right, any order within a block; (B, L)."""
    answer = torch.cat([torch.rand(B, BLOCK).argsort(dim=1) + BLOCK * k for k in range(G // BLOCK)], dim=1)
    return torch.cat((torch.full((B, PROMPT), -1), answer, torch.full((B, 2), -1)), dim=1)


@pytest.mark.parametrize("reach", ["later", "block"])
def test_what_lies_between_two_states(order, reach):
    pair = trajectory_pair(order, row_keys(torch.arange(B), 0), BLOCK, reach)
    y, later, U, S = pair
    assert not (y & (order < 0)).any() and not (later & ~y).any()
    assert torch.equal(U, y & ~later) and U.any(dim=1).all()
    # The state is on the path: what it masks are the last steps.
    steps = G - y.sum(dim=1)
    assert torch.equal(y, (order >= 0) & (order >= steps[:, None]))
    # y* is in the block of y or at its end, so no more than a block lies between.
    block = order.div(BLOCK, rounding_mode="floor")
    first = torch.where(y, block, G).amin(dim=1, keepdim=True)
    assert (block[U] == first.expand_as(block)[U]).all()
    if reach == "later":
        assert torch.equal(S, later) and (block[S] > first.expand_as(block)[S]).all()
    else:
        assert torch.equal(S, later & (block == first))
    assert set(steps.tolist()) == set(range(G))  # every step of a path is drawn


def test_blocks_of_a_grid_that_counts_the_prompt_end_earlier():
    """With 3 prompt tokens in the first block of 4 the answer's blocks have 1, 4, 4 and 3 positions."""
    sizes = (1, 4, 4, 3)
    block = torch.repeat_interleave(torch.arange(4), torch.tensor(sizes)).expand(B, G)
    order = torch.arange(G).expand(B, G)
    offset = torch.full((B,), 3)
    pair = trajectory_pair(order, row_keys(torch.arange(B), 0), BLOCK, "later", offset)
    first = torch.where(pair.masked, block, 4).amin(dim=1, keepdim=True)
    assert torch.equal(pair.committed, pair.masked & (block == first)) and torch.equal(pair.remaining, block > first)


def test_states_depend_on_the_key_alone(order):
    keys = row_keys(torch.arange(B), 7)
    whole = trajectory_pair(order, keys, BLOCK, "later")
    part = trajectory_pair(order[5:9], keys[5:9], BLOCK, "later")
    assert all(torch.equal(a[5:9], b) for a, b in zip(whole, part, strict=True))
    assert not torch.equal(whole.masked, trajectory_pair(order, keys + 1, BLOCK, "later").masked)


@pytest.mark.parametrize("delta", [1, 5, 100])
def test_a_window_reveals_the_next_steps_and_keeps_the_rest(order, delta):
    y, later, U, S = path_window(order, row_keys(torch.arange(B), 0), delta)
    steps = G - y.sum(dim=1)
    assert set(steps.tolist()) == set(range(G))  # every step of a path is drawn
    assert torch.equal(U | S, y) and not (U & S).any() and torch.equal(S, later)
    assert torch.equal(U.sum(dim=1), torch.minimum(G - steps, torch.tensor(delta)))
    assert torch.equal(U, (order >= steps[:, None]) & (order < steps[:, None] + delta))
    assert not (y & (order < 0)).any()
