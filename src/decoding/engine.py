"""The decode loop of the repository.

A canvas holds the rows still being decoded: prompts padded on the left, so that every answer starts at the same
column, and answers that begin as all masks. Each row has its own current block and leaves when it is finished.
Letters: B prompts, n rows still active, P longest prompt, G gen_length, L = P + G, b block_length, V vocabulary.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import count, islice

import torch
import torch.nn.functional as F

from src.decoding.caches import CACHES
from src.decoding.config import DecodeConfig
from src.decoding.policies import BlockView, Policy
from src.decoding.result import DecodeResult
from src.diffusion.noise import row_keys
from src.diffusion.sampling import confidence, guide, propose, top_k

RUNNING, FINISHED, BROKEN = 0, 1, 2


@dataclass
class Canvas:
    """State of the active rows; every field has one entry per row."""

    index: torch.Tensor  # (n,) the row's place in the result
    ids: torch.Tensor  # (n,) what its random numbers are drawn from
    x: torch.Tensor  # (n, L)
    real: torch.Tensor  # (n, L) int64, 0 = padding before the prompt
    masked: torch.Tensor  # (n, G) bool, not yet committed
    block: torch.Tensor  # (n,) current block
    step: torch.Tensor  # (n,) step within the block
    nfe: torch.Tensor  # (n,)
    commit_step: torch.Tensor  # (n, G)
    confidence: torch.Tensor  # (n, G) float32

    def take(self, keep: torch.Tensor) -> "Canvas":
        return Canvas(*(getattr(self, field.name)[keep] for field in fields(self)))

    def answer(self) -> torch.Tensor:
        """A view of the answer part of x, (n, G)."""
        return self.x[:, -self.masked.shape[1] :]


def check_prompt(model, i: int, prompt: torch.Tensor, config: DecodeConfig) -> None:
    """Raise ValueError naming the prompt and what to do, for anything the model cannot decode."""
    if prompt.ndim != 1 or prompt.numel() == 0:
        raise ValueError(f"prompt {i} is empty or not 1-D (shape {tuple(prompt.shape)}): pass its token ids")
    room = model.config.max_sequence_length - config.gen_length
    if prompt.numel() > room:
        raise ValueError(
            f"prompt {i} has {prompt.numel()} tokens; with gen_length={config.gen_length} the model's "
            f"{model.config.max_sequence_length} leave room for {room}: shorten it or gen_length"
        )
    if (prompt == config.mask_id).any():
        raise ValueError(f"prompt {i} contains the mask token {config.mask_id}: remove it")


def start_canvas(
    prompts: Sequence[torch.Tensor], index: Sequence[int], ids: Sequence[int], config: DecodeConfig, device
):
    """All prompts on the left of an all-mask answer."""
    n, G, P = len(prompts), config.gen_length, max(p.numel() for p in prompts)
    x = torch.full((n, P + G), config.mask_id)
    real = torch.zeros(n, P + G, dtype=torch.long)
    for i, prompt in enumerate(prompts):
        x[i, P - prompt.numel() : P] = prompt
        real[i, P - prompt.numel() :] = 1
    return Canvas(
        index=torch.tensor(index, device=device),
        ids=torch.tensor(ids, device=device),
        x=x.to(device),
        real=real.to(device),
        masked=torch.ones(n, G, dtype=torch.bool, device=device),
        block=torch.zeros(n, dtype=torch.long, device=device),
        step=torch.zeros(n, dtype=torch.long, device=device),
        nfe=torch.zeros(n, dtype=torch.long, device=device),
        commit_step=torch.full((n, G), -1, device=device),
        confidence=torch.zeros(n, G, device=device),
    )


def join(canvases: Sequence[Canvas], config: DecodeConfig) -> Canvas:
    """One canvas of all rows, the shorter ones padded on the left."""
    L = max(c.x.shape[1] for c in canvases)
    for c in canvases:
        c.x = F.pad(c.x, (L - c.x.shape[1], 0), value=config.mask_id)
        c.real = F.pad(c.real, (L - c.real.shape[1], 0), value=0)
    return Canvas(*(torch.cat([getattr(c, field.name) for c in canvases]) for field in fields(Canvas)))


def block_logits(model, cache, canvas: Canvas, at: torch.Tensor, padded: bool, config: DecodeConfig) -> torch.Tensor:
    """Logits (n, b, V) of the current blocks, guided if asked."""
    real = canvas.real if padded else None  # no mask lets the fastest attention kernels run
    if config.cfg_scale == 0:
        return cache.logits(model, canvas.x, real, at)
    P = canvas.x.shape[1] - config.gen_length
    blind = torch.cat((torch.full_like(canvas.x[:, :P], config.mask_id), canvas.answer()), dim=1)
    both = torch.cat((canvas.x, blind))
    logits = cache.logits(model, both, torch.cat((real, real)) if padded else None, torch.cat((at, at)))
    return guide(*logits.chunk(2), config.cfg_scale)


def choose(view: BlockView, policy: Policy, config: DecodeConfig) -> torch.Tensor:
    """What the policy commits: bool (n, b), at least one position of every row."""
    score = policy.score(view)
    count = policy.count(score, view, config)
    closes = policy.closes(view, config)[:, None]
    # Where every candidate is held back the most confident of them must go, or the row would never end.
    stuck = ~view.candidates.any(dim=1, keepdim=True)
    pool = torch.where(closes | stuck, view.masked, view.candidates)
    count = torch.where(closes[:, 0], view.masked.sum(dim=1), count)
    return top_k(score, pool, count)


def is_eos(tokens: torch.Tensor, eos_ids: torch.Tensor) -> torch.Tensor:
    return torch.isin(tokens, eos_ids)


def advance(model, cache, canvas: Canvas, policy: Policy, eos_ids: torch.Tensor, padded: bool, config: DecodeConfig):
    """One step of every active row, in place; returns (n,) RUNNING, FINISHED or BROKEN."""
    G, b = config.gen_length, config.block_length
    within = canvas.block[:, None] * b + torch.arange(b, device=canvas.x.device)  # (n, b) place in the answer
    at = within + canvas.x.shape[1] - G  # (n, b) place in the canvas
    logits = block_logits(model, cache, canvas, at, padded, config)  # (n, b, V)
    keys = row_keys(canvas.ids, config.seed) + canvas.nfe
    tokens = propose(logits, config.mask_id, config.temperature, keys)  # (n, b)
    certainty = confidence(logits, tokens)  # (n, b)
    masked = canvas.masked.gather(1, within)
    early = (~canvas.masked).sum(dim=1, keepdim=True) < config.eos_hold_ratio * G
    view = BlockView(
        logits=logits,
        confidence=certainty,
        masked=masked,
        candidates=masked & ~(early & is_eos(tokens, eos_ids)),
        step=canvas.step,
        keys=keys,
    )
    commit = choose(view, policy, config)
    canvas.x.scatter_(1, at, torch.where(commit, tokens, canvas.x.gather(1, at)))
    canvas.masked.scatter_(1, within, masked & ~commit)
    steps = torch.where(commit, canvas.nfe[:, None], canvas.commit_step.gather(1, within))
    canvas.commit_step.scatter_(1, within, steps)
    canvas.confidence.scatter_(1, within, torch.where(commit, certainty, canvas.confidence.gather(1, within)))
    canvas.nfe += 1
    done = ~(masked & ~commit).any(dim=1)
    canvas.block += done
    canvas.step = (canvas.step + 1) * ~done
    status = torch.where(canvas.block == config.blocks, FINISHED, RUNNING)
    if config.stop_at_eos:
        status = torch.where(first_eos(canvas, eos_ids) < first_true(canvas.masked), FINISHED, status)
    return torch.where(certainty.isfinite().all(dim=1), status, BROKEN)


def first_true(flags: torch.Tensor) -> torch.Tensor:
    """Index of the first true entry of each row, or the row's length: bool (n, G) -> (n,)."""
    return torch.where(flags.any(dim=1), flags.int().argmax(dim=1), flags.shape[1])


def first_eos(canvas: Canvas, eos_ids: torch.Tensor) -> torch.Tensor:
    """Place in the answer of the first committed EOS, or G: (n,)."""
    return first_true(is_eos(canvas.answer(), eos_ids) & ~canvas.masked)


def fill_after_eos(tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """tokens (n, G) with everything after place lengths (n,) replaced by the token there."""
    G = tokens.shape[1]
    end = tokens.gather(1, lengths.clamp(max=G - 1)[:, None])
    return torch.where(torch.arange(G, device=tokens.device) > lengths[:, None], end, tokens)


def result_of(canvas: Canvas, eos_ids: torch.Tensor, config: DecodeConfig) -> DecodeResult:
    """What the rows of a finished canvas amount to."""
    tokens, lengths = canvas.answer(), first_eos(canvas, eos_ids)
    if config.stop_at_eos:
        tokens = fill_after_eos(tokens, lengths)
    steps, nfe = canvas.commit_step.cpu(), canvas.nfe.cpu()
    return DecodeResult(
        index=canvas.index.cpu(),
        tokens=tokens.cpu(),
        nfe=nfe,
        lengths=lengths.cpu(),
        commits=[torch.bincount(r[r >= 0], minlength=n).tolist() for r, n in zip(steps, nfe.tolist(), strict=True)],
        commit_step=steps,
        confidence=canvas.confidence.cpu(),
    )


def check_status(canvas: Canvas, codes: list[int]) -> None:
    """Stop at the first row whose logits are not finite."""
    if BROKEN in codes:
        row = codes.index(BROKEN)
        raise FloatingPointError(
            f"logits of prompt {canvas.index[row].item()} are not finite at step {canvas.nfe[row].item()}: "
            "check the weights and the dtype"
        )


@torch.inference_mode()
def decode_stream(
    model,
    prompts: Iterable[torch.Tensor],
    policy: Policy,
    config: DecodeConfig,
    *,
    batch_size: int,
    row_ids: Iterable[int] | None = None,
    on_step: Callable[[Canvas], None] | None = None,
) -> Iterator[DecodeResult]:
    """Decode any number of prompts (1-D LongTensors of any lengths), at most batch_size at a time.

    A row that finishes is yielded (`index` says which prompts a result holds) and a waiting prompt takes its place.
    Batching and padding change no row's answer. row_ids: what a row's random numbers are drawn from besides
    config.seed (default: its place among the prompts). on_step: called with the canvas after every step.
    Raises ValueError for input that cannot be decoded, FloatingPointError with row and step for bad logits.
    """
    policy.check(config)
    if not 0 <= config.mask_id < model.config.embedding_size:
        raise ValueError(f"mask_id={config.mask_id} is outside the vocabulary of {model.config.embedding_size}")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1")
    device = next(model.parameters()).device
    eos_ids = torch.tensor(config.eos_ids, dtype=torch.long, device=device)
    cache = CACHES[config.cache]()
    waiting = zip(count(), prompts, count() if row_ids is None else row_ids)
    canvas: Canvas | None = None
    padded = False
    while True:
        rows = 0 if canvas is None else len(canvas.index)
        arrivals = list(islice(waiting, batch_size - rows))
        for i, prompt, _ in arrivals:
            check_prompt(model, i, prompt, config)
        if arrivals:
            index, new, ids = zip(*arrivals, strict=True)
            fresh = start_canvas(new, index, ids, config, device)
            canvas = join([canvas, fresh], config) if rows else fresh
            padded = padded or bool(rows) or len({p.numel() for p in new}) > 1
        elif rows == 0:
            return
        status = advance(model, cache, canvas, policy, eos_ids, padded, config)
        if on_step is not None:
            on_step(canvas)
        codes = status.tolist()  # the step's one wait for the device
        check_status(canvas, codes)
        if FINISHED in codes:
            yield result_of(canvas.take(status == FINISHED), eos_ids, config)
            canvas = canvas.take(status == RUNNING)


def decode(
    model,
    prompts: Sequence[torch.Tensor],
    policy: Policy,
    config: DecodeConfig,
    *,
    row_ids: Iterable[int] | None = None,
    on_step: Callable[[Canvas], None] | None = None,
) -> DecodeResult:
    """Decode a list of prompts as one batch and return the answers in its order; arguments as for decode_stream."""
    if not len(prompts):
        raise ValueError("no prompts: pass a list of at least one 1-D tensor of token ids")
    batch_size = len(prompts)
    parts = decode_stream(model, prompts, policy, config, batch_size=batch_size, row_ids=row_ids, on_step=on_step)
    return DecodeResult.join(list(parts))
