"""What --model_args and --gen_kwargs may say, checked by name before anything is loaded."""

import math
from dataclasses import dataclass, replace
from typing import Literal

from cd4lm.config import build, parse_pairs, require
from cd4lm.decoding.config import DecodeConfig
from cd4lm.decoding.options import DecodingOptions

PREFIX = "dllm_"
SAMPLING_TEMPERATURE = 1.2  # of --samples above 1, as published for pass@5


@dataclass(frozen=True)
class ModelOptions:
    """--model_args. pretrained: checkpoint folder or hub name. dtype: auto is bfloat16 on a GPU, float32 on a CPU.

    mc_samples: states per answer in the likelihood of multiple-choice tasks (LLaDA uses 128).
    """

    pretrained: str
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    mc_samples: int = 128

    def __post_init__(self):
        require(self.mc_samples >= 1, f"mc_samples={self.mc_samples} must be at least 1")

    @classmethod
    def parse(cls, text: str) -> "ModelOptions":
        """Options from `a=1,b=2`. Raises ConfigError naming an unknown or unusable one and the nearest name."""
        return build(cls, parse_pairs(text, "model_args.", as_text=("pretrained", "dtype")), "model_args.")


def is_ours(task: str) -> bool:
    """Whether a task is one of this repository's, scored by evaluation/metrics."""
    return task.startswith(PREFIX)


def generation_pairs(text: str) -> dict:
    """--gen_kwargs as a dictionary, checked as far as it can be without a checkpoint."""
    pairs = parse_pairs(text, "gen_kwargs.")
    DecodingOptions.parse(pairs, "gen_kwargs.")
    require("seed" not in pairs, "gen_kwargs.seed: use --seed")
    return pairs


def task_options(request: dict, seed: int) -> tuple[DecodingOptions, tuple[str, ...]]:
    """Our options, and the strings that end an answer, from the generation arguments of one lm-eval request.

    lm-eval's own arguments keep their meaning: do_sample=false is temperature 0, max_gen_toks is the canvas where
    gen_length is not given (rounded up to whole blocks), until ends the text.
    """
    ours = {"seed": seed} | request
    until = ours.pop("until", None) or ()
    sampled, length = ours.pop("do_sample", None), ours.pop("max_gen_toks", None)
    if sampled is False:
        ours["temperature"] = 0.0
    options = DecodingOptions.parse(ours, "generation_kwargs.")
    if options.gen_length is None and length is not None:
        block = min(DecodeConfig.block_length, length) if options.block_length is None else options.block_length
        require(block >= 1, f"block_length={block} must be at least 1")
        options = replace(options, block_length=block, gen_length=math.ceil(length / block) * block)
    return options, (until,) if isinstance(until, str) else tuple(until)
