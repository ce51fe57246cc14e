"""What benchmark_decoding.py decodes: the modes, and the prompts and settings of each grid point."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product

import torch

from benchmarking import shapes
from cd4lm.config import require
from cd4lm.data import tiny_task
from cd4lm.data.examples import encode_prompt, end_ids
from cd4lm.decoding import ConfidenceAdaptive, DecodeConfig, FixedSteps, MultiBlock, decode
from cd4lm.decoding.policies import Policy
from cd4lm.model.loading import load_config, load_for_inference, load_tokenizer
from evaluation.tuning import read_problems

CACHES = {"plain": "plain", "exact": "none", "prefix": "prefix", "dual": "dual", "block": "block"}
SEVERAL = {"multi_block": "none", "multi_block_cached": "block"}  # several blocks open at once
APPROXIMATE = ("prefix", "dual")
ENDS = ("", "+compile", "+packed")
MODES = ["plain", *(name + end for name in (*CACHES, *SEVERAL) if name != "plain" for end in ENDS)]
INIT_GAIN = 1.7  # standard deviation of a weight times sqrt(d_model); at 0.45 (0.02) all masks predict the same token
LOGIT_STD = 8.0  # confidences spread over (0, 1)


@dataclass(frozen=True)
class Mode:
    """A way to decode: its name, policy, settings of the engine and rows at a time.

    packed: with the head's weight in oneDNN's order (a CPU's). refresh_interval: of the approximate caches, None refreshes
    at the start of a block only.
    """

    name: str
    policy: Policy
    cache: str
    compile: bool
    batch: int
    packed: bool = False
    refresh_interval: int | None = None

    @property
    def exact(self) -> bool:
        return self.cache not in APPROXIMATE or self.refresh_interval == 1

    @property
    def eager(self) -> "Mode":
        """The mode that does the same arithmetic without compiled steps."""
        return replace(self, name=self.name.replace("+compile", ""), compile=False)

    def config(self, base: DecodeConfig) -> DecodeConfig:
        """The engine's settings; the plain loop decodes the tail after EOS, as published."""
        mine = {"cache": self.cache, "compile": self.compile, "refresh_interval": self.refresh_interval}
        return replace(base, stop_at_eos=self.cache != "plain", **mine)


@dataclass(frozen=True)
class Point:
    """One grid point: prompts, settings, and what scores an answer (row index, tokens) or None."""

    prompts: list[torch.Tensor]
    config: DecodeConfig
    score: Callable[[int, torch.Tensor], bool] | None
    prompt_length: int | str

    @property
    def columns(self) -> int:
        """Of the widest canvas."""
        return max(map(len, self.prompts)) + self.config.gen_length


def modes_of(arguments: argparse.Namespace) -> list[Mode]:
    """Every mode at every batch size, the plain loop at 1 only; the approximate ones at every refresh interval.

    All commit from the same confidence on, CAD in one block, its twin in all that are open; with --steps the modes of one
    block commit so many times instead.
    """
    found, cad = [], ConfidenceAdaptive(threshold=arguments.threshold)
    if arguments.steps is not None:
        cad = FixedSteps(arguments.steps)
    several = MultiBlock(arguments.threshold, arguments.block_add_threshold, certainty="confidence")
    for name in arguments.modes:
        kind, _, end = name.partition("+")
        intervals = arguments.refresh_interval if kind in APPROXIMATE else [0]
        batches = sorted(set(arguments.batch)) if kind != "plain" else [1]
        for batch, interval in product(batches, intervals):
            label = f"{name}/{interval}" if interval else name
            policy, cache = (several if kind in SEVERAL else cad), (CACHES | SEVERAL)[kind]
            found.append(Mode(label, policy, cache, end == "compile", batch, end == "packed", interval or None))
    return found


def model_config(arguments: argparse.Namespace):
    """The configuration of the model to decode with; no weights are made or read."""
    if arguments.model_path is not None:
        return load_config(arguments.model_path)
    config = shapes.config_of(arguments)
    config.init_std = INIT_GAIN / config.d_model**0.5
    if arguments.attention == "block_causal":
        config.set_attention("block_causal", arguments.block_length)
    return config


def build_model(arguments: argparse.Namespace, config, device: torch.device, dtype: torch.dtype):
    if arguments.model_path is not None:
        return load_for_inference(arguments.model_path, dtype)[0]
    return shapes.random_model(config, 0, device, dtype, LOGIT_STD).eval()


def points(arguments: argparse.Namespace, config) -> list[Point]:
    """The grid: the questions of --data, or random prompts of each length, with each canvas."""
    base = {"mask_id": config.mask_token_id, "block_length": arguments.block_length}
    settings = [DecodeConfig(gen_length=gen_length, **base) for gen_length in arguments.gen_length]
    if arguments.data is not None:
        return question_points(arguments, settings)
    found = []
    for prompt_length, each in product(arguments.prompt_length, settings):
        prompts = shapes.random_tokens(config, arguments.prompts, prompt_length, seed=prompt_length)
        found.append(Point(list(prompts), each, None, prompt_length))
        room = config.max_sequence_length
        require(
            found[-1].columns <= room, f"--prompt_length={prompt_length} + {each.gen_length} is above {room} tokens"
        )
    return found


def question_points(arguments: argparse.Namespace, settings: list[DecodeConfig]) -> list[Point]:
    """The questions of --data under each canvas, scored as the embedded task's."""
    _, rows = read_problems(arguments.data, arguments.prompts, allow_test=True)
    require(len(rows) == arguments.prompts, f"{arguments.data} holds only {len(rows)} rows: lower --prompts")
    tokenizer = load_tokenizer(arguments.model_path)
    prompts = [torch.tensor(encode_prompt(tokenizer, row["question"])) for row in rows]

    def score(i: int, tokens: torch.Tensor) -> bool:
        return tiny_task.score(rows[i], tokenizer.decode(tokens))

    return [Point(prompts, replace(each, eos_ids=tuple(end_ids(tokenizer))), score, "data") for each in settings]


def plant_eos(model, point: Point, threshold: float, answer_length: int | None) -> Point:
    """The point with an EOS for random weights: for each prompt the token that its exact answer holds first nearest to
    `answer_length`, by default half the canvas."""
    length, chosen = answer_length or point.config.gen_length // 2, set()
    exact = replace(point.config, stop_at_eos=False)
    for row in decode(model, point.prompts, ConfidenceAdaptive(threshold=threshold), exact).tokens.tolist():
        first = {token: place for place, token in reversed(list(enumerate(row)))}
        chosen.add(min(first, key=lambda token: abs(first[token] - length)))
    return replace(point, config=replace(point.config, eos_ids=tuple(sorted(chosen))))
