"""One step of every row: a forward, what it proposes, what the policy commits.

Nothing here asks the device for a value, changes a shape or makes a new canvas, so that a step can be compiled and
captured as a CUDA graph. Letters: n rows, L columns, G gen_length, b block_length, W = window b positions of the open
blocks, S positions to decode, K blocks, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from cd4lm.decoding.caches import Group, NoCache
from cd4lm.decoding.canvas import Canvas, block_places, committed_share, first_eos, first_true, is_eos
from cd4lm.decoding.config import DecodeConfig
from cd4lm.decoding.policies import BlockView, Policy, SeveralBlocksView
from cd4lm.diffusion.noise import row_keys
from cd4lm.diffusion.sampling import guide, propose, propose_published, top_k

RUNNING, FINISHED, BROKEN = 0, 1, 2


def block_logits(model, cache: NoCache, x, real, at, refresh, plan, config: DecodeConfig) -> torch.Tensor:
    """Logits (n, W, V) at columns `at`, or (n, L, V) from a cache that reads all, guided if asked."""
    if config.cfg_scale == 0:
        return cache.logits(model, x, real, at, refresh, plan)
    P = x.shape[1] - config.gen_length
    blind = torch.cat((torch.full_like(x[:, :P], config.mask_id), x[:, P:]), dim=1)
    twice = [None if part is None else torch.cat((part, part)) for part in (real, at, refresh)]
    return guide(*cache.logits(model, torch.cat((x, blind)), *twice, plan).chunk(2), config.cfg_scale)


def predict(model, cache: NoCache, x, real, at, refresh, plan, keys, places, config: DecodeConfig):
    """Logits (n, W, V), proposed tokens (n, W) and their probabilities (n, W) float32 of the open blocks.

    places: (n, W), 0 .. b-1 in a row's first open block and so on: what a position's random numbers are told apart by.
    This is the part of a step that torch.compile sees: all of its arithmetic, none of the policy.
    """
    logits = block_logits(model, cache, x, real, at, refresh, plan, config)
    if not cache.reads_all:
        return logits, *propose(logits, config.mask_id, config.temperature, keys, places)
    everywhere = torch.arange(x.shape[1], device=x.device) - (at - places)[:, :1]  # (n, L), the same in the blocks
    tokens, certainty = propose_published(logits, config.mask_id, config.temperature, keys, everywhere)
    block = at[..., None].expand(-1, -1, logits.shape[-1])
    return logits.gather(1, block), tokens.gather(1, at), certainty.gather(1, at)


def choose(view: BlockView, policy: Policy, config: DecodeConfig) -> torch.Tensor:
    """What the policy commits: bool (n, W), at least one position of every row."""
    score = policy.score(view)
    count = policy.count(score, view, config)
    closes = policy.closes(view, config)[:, None]
    # Where every candidate is held back the most confident of them must go, or the row would never end.
    stuck = ~view.candidates.any(dim=1, keepdim=True)
    pool = torch.where(closes | stuck, view.masked, view.candidates)
    count = torch.where(closes[:, 0], view.masked.sum(dim=1), count)
    commit = top_k(score, pool, count)
    if policy.opens_several:
        forced = pool & policy.forced(view)
        lacking = ~(commit & forced).any(dim=1)
        commit = commit | top_k(score, forced, lacking.long())
    return commit


def refresh_due(step, config: DecodeConfig):
    """Whether the whole canvas is recomputed at a step of a block; one number or a tensor of them."""
    due = step == 0
    return due if config.refresh_interval is None else due | (step % config.refresh_interval == 0)


@dataclass(frozen=True)
class Stage:
    """What the steps of a batch have in common as long as no row joins or leaves. padded: some row has padding."""

    model: object
    cache: NoCache
    canvas: Canvas
    policy: Policy
    config: DecodeConfig
    eos_ids: torch.Tensor
    padded: bool
    forward: Callable = predict


def advance(stage: Stage, plan: tuple[Group, ...], window: int) -> torch.Tensor:
    """One step of every row, in place; window: how many blocks the row with the most has open.

    Returns (4, n): RUNNING, FINISHED or BROKEN, then the new block, step and number of open blocks.
    """
    canvas, policy, config, eos_ids = stage.canvas, stage.policy, stage.config, stage.eos_ids
    G, b = config.gen_length, config.block_length
    blocks = (G + canvas.offset + b - 1).div(b, rounding_mode="floor")  # (n,) the last may be shorter than b
    within, places = window_of(canvas, blocks, b, window)
    at = canvas.columns.gather(1, within) + canvas.x.shape[1]  # (n, W) place in the canvas
    keys = row_keys(canvas.ids, config.seed) + canvas.nfe
    real = canvas.real if stage.padded else None  # no mask lets the fastest attention kernels run
    refresh = refresh_due(canvas.step, config)
    inputs = (canvas.x, real, at, refresh, plan, keys, places, config)
    logits, tokens, certainty = stage.forward(stage.model, stage.cache, *inputs)
    masked = canvas.masked.gather(1, within)
    if policy.opens_several:
        share, block = committed_share(canvas, b), block_places(canvas, b).gather(1, within)  # (n, K), (n, W)
        masked = masked & (block < policy.reach(share)[:, None])
    early = (~canvas.masked[:, -G:]).sum(dim=1, keepdim=True) < config.eos_hold_ratio * G
    candidates = masked & ~(early & is_eos(tokens, eos_ids))
    seen = (logits, certainty, masked, candidates, canvas.step, keys)
    view = SeveralBlocksView(*seen, share, block) if policy.opens_several else BlockView(*seen)
    record(canvas, at, within, choose(view, policy, config), tokens, certainty)
    width = move_on(canvas, policy, blocks, b)
    status = torch.where(canvas.block >= blocks, FINISHED, RUNNING)
    if config.stop_at_eos:
        first_masked = (
            first_true(canvas.masked) - canvas.masked.shape[1] + G
        )  # in the answer; masks of the prompt below 0
        status = torch.where(first_eos(canvas, eos_ids) < first_masked, FINISHED, status)
    status = torch.where(certainty.isfinite().all(dim=1), status, BROKEN)
    return torch.stack((status, canvas.block, canvas.step, width))


def window_of(canvas: Canvas, blocks: torch.Tensor, b: int, window: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Which of the positions to decode a step looks at, (n, W), and their places from the first unfinished block on.

    blocks: (n,) of the answer. A row with fewer blocks left than the window sees finished ones, at places below 0.
    """
    G, S = canvas.gen_length, canvas.masked.shape[1]
    # Rows that only fill a batch run past the last block; they stay on it. A short block is seen with tokens before it.
    first = (torch.minimum(canvas.block, blocks - 1) * b - canvas.offset).clamp(max=G - b)
    start = first.clamp(max=G - window * b)
    columns = torch.arange(window * b, device=canvas.x.device)
    return (start + S - G)[:, None] + columns, columns - (first - start)[:, None]


def move_on(canvas: Canvas, policy: Policy, blocks: torch.Tensor, b: int) -> torch.Tensor:
    """Set each row's first unfinished block, and its step; returns how many blocks are open now, (n,).

    blocks: (n,) of the answer.
    """
    S = canvas.masked.shape[1]
    before = (S - canvas.gen_length) // b  # blocks of positions before the answer's first
    place = first_true(canvas.masked)
    now = torch.where(place < S, (place + canvas.offset).div(b, rounding_mode="floor") - before, blocks)
    canvas.step.add_(1).mul_(now == canvas.block)
    canvas.block.copy_(now)
    if not policy.opens_several:
        return torch.ones_like(now)
    reach = policy.reach(committed_share(canvas, b)) - before
    return (torch.minimum(reach, blocks) - now).clamp(min=1)


def record(canvas: Canvas, at, within, commit, tokens, certainty) -> None:
    """Write what was committed (bool (n, W)) into the canvas, and count the step."""
    canvas.x.scatter_(1, at, torch.where(commit, tokens, canvas.x.gather(1, at)))
    canvas.masked.scatter_(1, within, canvas.masked.gather(1, within) & ~commit)
    steps = torch.where(commit, canvas.nfe[:, None], canvas.commit_step.gather(1, within))
    canvas.commit_step.scatter_(1, within, steps)
    canvas.confidence.scatter_(1, within, torch.where(commit, certainty, canvas.confidence.gather(1, within)))
    canvas.nfe.add_(1)
