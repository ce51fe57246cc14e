"""What benchmark_decoding.py decodes: the model, the prompts and settings of each grid point, the modes."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from benchmarking.decoding_speed import SHAPES, Mode, config_of, random_model
from cd4lm.config import require
from cd4lm.data import tiny_task
from cd4lm.data.examples import encode_prompt, end_ids
from cd4lm.decoding import DecodeConfig, decode
from cd4lm.model.loading import load_model, load_tokenizer
from evaluation.tuning import read_problems

CACHES = {"plain": "plain", "exact": "none", "prefix": "prefix", "dual": "dual", "block": "block"}
MODES = ["plain", *(name + end for name in ("exact", "prefix", "dual", "block") for end in ("", "+compile"))]


@dataclass(frozen=True)
class Point:
    """One grid point: prompts, settings, and what scores an answer (row index, tokens) or None."""

    prompts: list[torch.Tensor]
    config: DecodeConfig
    score: Callable[[int, torch.Tensor], bool] | None
    labels: dict


def build_model(arguments: argparse.Namespace, device: torch.device, dtype: torch.dtype):
    if arguments.model_path is not None:
        return load_model(arguments.model_path, dtype=dtype).to(device).eval()
    given = {
        name: vars(arguments)[name] for name in ("d_model", "n_heads", "n_layers", "vocab_size", "mlp_hidden_size")
    }
    shape = SHAPES[arguments.shape] | {name: value for name, value in given.items() if value is not None}
    model = random_model(shape, device, dtype, arguments.init_gain, arguments.logit_std)
    if arguments.attention == "block_causal":
        model.config.set_attention("block_causal", arguments.block_length, arguments.block_grid)
    return model


def base_config(arguments: argparse.Namespace, model, gen_length: int, eos_ids=()) -> DecodeConfig:
    """Settings that all modes share."""
    return DecodeConfig(
        mask_id=model.config.mask_token_id,
        eos_ids=tuple(eos_ids),
        gen_length=gen_length,
        block_length=arguments.block_length,
        length_bucket=arguments.length_bucket,
    )


def planted_eos(model, prompts, policy, config: DecodeConfig, length: int) -> set[int]:
    """For each prompt the token whose first place in its exact answer is nearest to `length`."""
    exact = replace(config_of(Mode("", "none", False, 1), config), stop_at_eos=False)
    chosen = set()
    for row in decode(model, prompts, policy, exact).tokens.tolist():
        first = {token: place for place, token in reversed(list(enumerate(row)))}
        chosen.add(min(first, key=lambda token: abs(first[token] - length)))
    return chosen


def question_points(arguments: argparse.Namespace, model) -> list[Point]:
    """The questions of --data under each canvas, scored."""
    found = []
    tokenizer = load_tokenizer(arguments.model_path)
    _, rows = read_problems(arguments.data, arguments.prompts, allow_test=True)
    require(len(rows) == arguments.prompts, f"{arguments.data} holds only {len(rows)} rows: lower --prompts")
    prompts = [torch.tensor(encode_prompt(tokenizer, row["question"])) for row in rows]
    for gen_length in arguments.gen_length:
        config = base_config(arguments, model, gen_length, end_ids(tokenizer))
        score = lambda i, tokens: tiny_task.score(rows[i], tokenizer.decode(tokens))  # noqa: E731
        found.append(Point(prompts, config, score, {"prompt_length": "data", "gen_length": gen_length}))
    return found


def points(arguments: argparse.Namespace, model, policy) -> list[Point]:
    """The grid: the questions of --data, or random prompts of each length, with each canvas."""
    if arguments.data is not None:
        return question_points(arguments, model)
    found = []
    for prompt_length in arguments.prompt_length:
        generator = torch.Generator().manual_seed(prompt_length)
        ids = torch.randint(
            0, model.config.mask_token_id - 256, (arguments.prompts, prompt_length), generator=generator
        )
        for gen_length in arguments.gen_length:
            length = arguments.answer_length or gen_length // 2
            eos_ids = planted_eos(model, list(ids), policy, base_config(arguments, model, gen_length), length)
            config = base_config(arguments, model, gen_length, sorted(eos_ids))
            found.append(Point(list(ids), config, None, {"prompt_length": prompt_length, "gen_length": gen_length}))
    return found


def modes_of(arguments: argparse.Namespace) -> list[Mode]:
    """Every mode at every batch size, the plain loop at 1 only; the approximate ones at every refresh interval."""
    found = []
    for name in arguments.modes:
        kind, _, compiled = name.partition("+")
        intervals = arguments.refresh_interval if kind in ("prefix", "dual") else [0]
        for batch in sorted(set(arguments.batch)) if name != "plain" else [1]:
            for interval in intervals:
                label = f"{name}/{interval}" if interval else name
                found.append(Mode(label, CACHES[kind], bool(compiled), batch, interval or None))
    return found
