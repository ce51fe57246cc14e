"""What --model_args and --gen_kwargs may say, checked by name before anything is loaded."""

import math
from dataclasses import dataclass, fields, replace
from typing import Literal

import yaml

from cd4lm.config import ConfigError, build, require
from cd4lm.decoding import DecodeConfig
from cd4lm.decoding.caches import exact_cache
from cd4lm.decoding.checks import check_settings
from cd4lm.decoding.generation_settings import GenerationSettings
from cd4lm.decoding.policy_options import PolicyOptions, choose_policy


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


@dataclass(frozen=True)
class GenerationOptions(PolicyOptions):
    """--gen_kwargs, under the published names; what is not said is what the checkpoint's generation_config.json says.

    use_dynamic: false is policy=fixed (one token per step unless `steps` is given), true an adaptive policy. The policies
    and their parameters: src/cd4lm/decoding/policy_options.py; the rest: src/cd4lm/decoding/config.py (eos_threshold_ratio is its
    eos_hold_ratio). cache: without one, the fastest that changes no token of the checkpoint.
    """

    use_dynamic: bool | None = None
    gen_length: int | None = None
    block_length: int | None = None
    eos_threshold_ratio: float = 0.0
    stop_at_eos: bool = True
    temperature: float = 0.0
    cfg_scale: float = 0.0
    cache: str | None = None
    refresh_interval: int | None = None
    compile: bool = False

    def __post_init__(self):
        super().__post_init__()
        dynamic = self.policy not in (None, "fixed")
        require(
            self.use_dynamic is None or self.policy is None or self.use_dynamic == dynamic,
            f"use_dynamic={self.use_dynamic} contradicts policy={self.policy}: drop one",
        )

    def policy_options(self) -> PolicyOptions:
        """The part that chooses a policy, with use_dynamic put into its terms."""
        named = {field.name: vars(self)[field.name] for field in fields(PolicyOptions)}
        if self.use_dynamic is False:
            named["policy"] = "fixed"
        return PolicyOptions(**named)


@dataclass(frozen=True)
class Decoder:
    """A policy and the settings of the run it belongs to; equal decoders share a batch."""

    policy: object
    config: DecodeConfig


def parse_pairs(text: str, name: str) -> dict:
    """`a=1,b=x` as a dictionary with YAML values. Raises ConfigError for a part without `=` and for a repeated name."""
    pairs = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, sign, value = part.partition("=")
        if not sign or not key:
            raise ConfigError(f"{name}: {part!r} is not of the form key=value")
        if key in pairs:
            raise ConfigError(f"{name}: {key} is given twice")
        pairs[key] = value if key in ("pretrained", "dtype") else yaml.safe_load(value)
    return pairs


def model_options(text: str) -> ModelOptions:
    """--model_args, strictly."""
    return build(ModelOptions, parse_pairs(text, "model_args"), "model_args.")


def generation_pairs(text: str) -> dict:
    """--gen_kwargs as a dictionary, checked as far as it can be without a checkpoint."""
    pairs = parse_pairs(text, "gen_kwargs")
    build(GenerationOptions, pairs, "gen_kwargs.")
    return pairs


def task_options(request: dict) -> tuple[GenerationOptions, tuple[str, ...]]:
    """Our options, and the strings that end an answer, from the generation arguments of one lm-eval request.

    lm-eval's own arguments keep their meaning: do_sample=false is temperature 0, max_gen_toks is the canvas where
    gen_length is not given (rounded up to whole blocks), until ends the text.
    """
    ours = dict(request)
    until = ours.pop("until", None) or ()
    sampled, length = ours.pop("do_sample", None), ours.pop("max_gen_toks", None)
    if sampled is False:
        ours["temperature"] = 0.0
    options = build(GenerationOptions, ours, "generation_kwargs.")
    if options.gen_length is None and length is not None:
        block = min(GenerationSettings.block_length, length) if options.block_length is None else options.block_length
        require(block >= 1, f"block_length={block} must be at least 1")
        options = replace(options, block_length=block, gen_length=math.ceil(length / block) * block)
    return options, (until,) if isinstance(until, str) else tuple(until)


def make_decoder(
    options: GenerationOptions, stored: GenerationSettings, model_config, eos_ids: tuple[int, ...], seed: int
) -> Decoder:
    """The policy and configuration that options ask for; the checkpoint's settings fill what they leave open."""
    config = DecodeConfig(
        mask_id=model_config.mask_token_id,
        eos_ids=eos_ids,
        **stored.canvas(options.gen_length, options.block_length),
        temperature=options.temperature,
        cfg_scale=options.cfg_scale,
        eos_hold_ratio=options.eos_threshold_ratio,
        stop_at_eos=options.stop_at_eos,
        cache=options.cache or exact_cache(model_config.attention),
        refresh_interval=options.refresh_interval,
        compile=options.compile,
        seed=seed,
    )
    if options.use_dynamic and stored.policy == "fixed":
        stored = replace(stored, policy="cad")
    policy = choose_policy(options.policy_options(), stored, config.gen_length)
    check_settings(model_config, policy, config)
    return Decoder(policy, config)
