"""Steps of static shape: compiled once per shape, and on a GPU captured as CUDA graphs.

A canvas is padded to a multiple of length_bucket columns and to the full number of rows, and lives in buffers of its
own, so that a captured step finds its tensors where it left them. Padding changes no row's answer. Buffers, graphs and
compiled code belong to the model and are used again by later runs with the same policy, settings and batch size.
"""

import weakref
from dataclasses import replace

import torch

from cd4lm.decoding.caches import CLASSES, Group, NoCache
from cd4lm.decoding.canvas import Canvas, Row, join, start_canvas
from cd4lm.decoding.config import DecodeConfig
from cd4lm.decoding.policies import Policy
from cd4lm.decoding.step import Stage, advance, predict

MOST_SHAPES = 64  # shapes compiled before the compiler gives up and runs further ones as they are
MOST_RUNNERS = 4  # settings whose buffers and graphs are kept per model

_runners: "weakref.WeakKeyDictionary[torch.nn.Module, dict[tuple, StaticRunner]]" = weakref.WeakKeyDictionary()


class StaticRunner:
    """Runs the steps of one policy, one setting and one batch size in buffers that stay where they are."""

    def __init__(self, policy: Policy, config: DecodeConfig, rows: int, device: torch.device):
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MOST_SHAPES)
        self.policy, self.config, self.rows = policy, config, rows
        self.eos_ids = torch.tensor(config.eos_ids, dtype=torch.long, device=device)
        self.predict = torch.compile(predict, dynamic=False)
        self.places: dict[tuple[int, int], tuple[Canvas, NoCache]] = {}  # by columns and positions to decode
        self.graphs: dict[tuple, tuple[torch.cuda.CUDAGraph, torch.Tensor]] = {}
        self.warm: set[tuple] = set()
        self.pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None

    def length(self, columns: int) -> int:
        """Columns of the bucket that holds a canvas."""
        return -(-columns // self.config.length_bucket) * self.config.length_bucket

    def window(self, blocks: int, canvas: Canvas) -> int:
        """Blocks that a step looks at so that few shapes are compiled: a power of two, or all that the canvas has."""
        return min(1 << (blocks - 1).bit_length(), canvas.masked.shape[1] // self.config.block_length)

    def place(self, stage: Stage) -> Stage:
        """Move rows and their cache into the buffers of their shape, with rows that only fill the batch after them."""
        model, canvas = stage.model, stage.canvas
        length, n = canvas.x.shape[1], len(canvas.index)
        if n < self.rows:
            nobody = [Row(index=-1, prompt=torch.zeros(1, dtype=torch.long), row_id=0)] * (self.rows - n)
            new = start_canvas(nobody, self.config, canvas.x.device, self.config.grid_of(model.config))
            canvas = join([canvas, new], length, self.config)
        cache = stage.cache.rearranged(model, range(n), self.rows, length)
        key = (length, canvas.masked.shape[1])
        if key not in self.places:
            buffers = Canvas(canvas.gen_length, **{k: torch.empty_like(v) for k, v in canvas.tensors().items()})
            own = CLASSES[self.config.cache](self.config).rearranged(model, (), self.rows, length)
            self.places[key] = (buffers, own)
        place, own = self.places[key]
        place.copy_(canvas)
        own.copy_(cache)
        return replace(stage, canvas=place, cache=own, eos_ids=self.eos_ids, padded=True, forward=self.predict)

    def step(self, stage: Stage, plan: tuple[Group, ...], window: int) -> torch.Tensor:
        """One step of the staged rows, in place; returns what `advance` does."""
        return advance(stage, plan, window) if self.pool is None else self.replay(stage, plan, window)

    def replay(self, stage: Stage, plan: tuple[Group, ...], window: int) -> torch.Tensor:
        """The step as a CUDA graph: the first of its shape runs as it is, the second is captured."""
        key = (*stage.canvas.x.shape, stage.canvas.masked.shape[1], plan, window)
        if key not in self.warm:
            # What capture cannot hold happens here: compiling, library handles and workspaces, off the main stream.
            self.warm.add(key)
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                report = advance(stage, plan, window)
            torch.cuda.current_stream().wait_stream(side)
            return report
        if key not in self.graphs:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self.pool):
                report = advance(stage, plan, window)
            self.graphs[key] = (graph, report)
        graph, report = self.graphs[key]
        graph.replay()
        return report


def key_of(model, policy: Policy, config: DecodeConfig, rows: int) -> tuple:
    """A graph remembers addresses: weights that have moved need a new one."""
    return policy, config, rows, model.get_output_embeddings().weight.data_ptr()


def borrow(model, policy: Policy, config: DecodeConfig, rows: int) -> StaticRunner:
    """A runner for these settings, taken out of the model's store so that no two runs share its buffers."""
    stored = _runners.setdefault(model, {}).pop(key_of(model, policy, config, rows), None)
    return stored or StaticRunner(policy, config, rows, model.get_output_embeddings().weight.device)


def give_back(model, runner: StaticRunner) -> None:
    """Keep a runner for the next run; the ones unused for longest are let go."""
    kept = _runners.setdefault(model, {})
    kept[key_of(model, runner.policy, runner.config, runner.rows)] = runner
    while len(kept) > MOST_RUNNERS:
        kept.pop(next(iter(kept)))
