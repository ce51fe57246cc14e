"""The decode loop of the repository: rows join, take steps together, and leave when they are finished."""

import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count, islice

import torch

from cd4lm.decoding.caches import CLASSES
from cd4lm.decoding.canvas import Canvas, Row, join, result_of, start_canvas
from cd4lm.decoding.checks import check_prompt, check_settings, warn_of_other_blocks
from cd4lm.decoding.config import DecodeConfig
from cd4lm.decoding.policies import Policy
from cd4lm.decoding.result import DecodeResult
from cd4lm.decoding.static import borrow, give_back
from cd4lm.decoding.step import BROKEN, FINISHED, RUNNING, Stage, advance, refresh_due


class Batch:
    """The rows being decoded and their cache; each row has its own block and step."""

    def __init__(self, model, policy: Policy, config: DecodeConfig, size: int):
        self.model, self.policy, self.config = model, policy, config
        self.device = next(model.parameters()).device
        self.eos_ids = torch.tensor(config.eos_ids, dtype=torch.long, device=self.device)
        self.rows: list[Row] = []
        self.canvas: Canvas | None = None
        self.cache = CLASSES[config.cache](config)
        self.kept: list[int] = []  # the rows of the cache that go on, in order
        self.changed = False
        self.padded = False
        self.stage: Stage | None = None
        self.runner = borrow(model, policy, config, size) if config.compile else None

    def close(self) -> None:
        if self.runner is not None:
            give_back(self.model, self.runner)

    def settle(self, arrivals: list[Row]) -> None:
        """Let rows join, and make canvas and cache as wide as the longest prompt that is left needs."""
        if not arrivals and not self.changed:
            return
        old = [] if self.canvas is None else [self.canvas]
        self.rows = self.rows + arrivals
        prompts = [row.prompt.numel() for row in self.rows]
        length = max(prompts) + self.config.gen_length
        if self.runner is not None:
            length = self.runner.length(length)
        grid = self.config.grid_of(self.model.config)
        new = [start_canvas(arrivals, self.config, self.device, grid)] if arrivals else []
        self.canvas = join(old + new, length, self.config)
        self.cache = self.cache.rearranged(self.model, self.kept, len(self.rows), length)
        self.padded = min(prompts) + self.config.gen_length < length
        stage = Stage(self.model, self.cache, self.canvas, self.policy, self.config, self.eos_ids, self.padded)
        self.stage = stage if self.runner is None else self.runner.place(stage)
        self.canvas, self.cache = self.stage.canvas, self.stage.cache
        self.kept, self.changed = list(range(len(self.rows))), False

    def step(self, on_step: Callable[[Canvas], None] | None) -> DecodeResult | None:
        """One step of every row; the rows that it finishes leave and are returned."""
        refresh = [refresh_due(row.step, self.config) for row in self.rows]
        blocks, gained = ([vars(row)[name] for row in self.rows] for name in ("block", "gained"))
        window = max(row.window for row in self.rows)
        if self.runner is not None:
            window = self.runner.window(window, self.canvas)
        L = self.canvas.x.shape[1]
        plan = self.cache.plan(blocks, refresh, L, split=self.runner is None, window=window, gained=gained)
        step = advance if self.runner is None else self.runner.step
        report = step(self.stage, plan, window)
        if on_step is not None:
            on_step(self.canvas.take(slice(0, len(self.rows))))
        status, *states = report.tolist()  # the step's one wait for the device
        for row, code, block, step, opened in zip(self.rows, status, *states, strict=False):
            if code == BROKEN:
                raise FloatingPointError(
                    f"logits of prompt {row.index} are not finite at step {row.taken + 1}: check the weights and the dtype"
                )
            row.gained, row.block, row.window = block - row.block, block, opened
            row.step, row.taken = step, row.taken + 1
        status = status[: len(self.rows)]
        return self.leave(status) if FINISHED in status else None

    def leave(self, status: list[int]) -> DecodeResult:
        finished, self.kept = ([i for i, code in enumerate(status) if code == s] for s in (FINISHED, RUNNING))
        result = result_of(self.canvas.take(torch.tensor(finished, device=self.device)), self.eos_ids, self.config)
        self.rows = [self.rows[i] for i in self.kept]
        self.canvas = self.canvas.take(torch.tensor(self.kept, device=self.device)) if self.kept else None
        self.changed = bool(self.kept)
        return result


def halve(batch_size: int, halved: bool, error: torch.OutOfMemoryError) -> int:
    """The batch size to go on with. Raises the error if there is nothing left to give."""
    if halved or batch_size == 1:
        raise torch.OutOfMemoryError(
            f"out of memory with batch_size={batch_size}: use fewer or shorter rows"
        ) from error
    warnings.warn(
        f"out of memory with batch_size={batch_size}: its rows start again in batches of {batch_size // 2}",
        stacklevel=4,
    )
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return batch_size // 2


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

    A row that finishes is yielded (`index` says which prompts a result holds) and a waiting prompt takes its place; no
    more than batch_size prompts are held at any time. Batching and padding change no row's answer. row_ids: what a
    row's random numbers are drawn from besides config.seed (default: its place among the prompts). on_step: called with
    the canvas after every step. Out of memory, the batch is halved once with a warning and its rows start again.
    Raises ValueError for input that cannot be decoded, FloatingPointError with row and step for bad logits.
    """
    check_settings(model.config, policy, config)
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1")
    warn_of_other_blocks(model.config, config)
    waiting = (Row(*each) for each in zip(count(), prompts, count() if row_ids is None else row_ids))
    again: deque[Row] = deque()
    batch, halved = Batch(model, policy, config, batch_size), False
    try:
        while True:
            arrivals = [again.popleft() for _ in range(min(len(again), batch_size - len(batch.rows)))]
            arrivals += islice(waiting, batch_size - len(batch.rows) - len(arrivals))
            for row in arrivals:
                check_prompt(model.config, row.index, row.prompt, config)
            if not arrivals and not batch.rows:
                return
            full: torch.OutOfMemoryError | None = None
            try:
                batch.settle(arrivals)
                finished = batch.step(on_step)
            except torch.OutOfMemoryError as error:
                full = error.with_traceback(None)  # the frames hold the tensors that filled the memory
            if full is not None:
                held = {row.index: row for row in batch.rows + arrivals}
                again.extendleft(Row(row.index, row.prompt, row.row_id) for row in reversed(held.values()))
                batch = None  # before the memory it holds is given back
                batch_size, halved = halve(batch_size, halved, full), True
                batch = Batch(model, policy, config, batch_size)
            elif finished is not None:
                yield finished
    finally:
        if batch is not None:
            batch.close()


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
