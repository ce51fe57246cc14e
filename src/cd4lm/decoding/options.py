"""How to decode, as options: from a command line, generation arguments, YAML or a checkpoint, to a policy and its settings.

Names are flat, so that an option is called the same everywhere: `--confidence_threshold 0.9`, `confidence_threshold=0.9`
in --gen_kwargs, `confidence_threshold` in a checkpoint's generation_config.json. Nothing here imports torch before a
decoder is built, so that help texts come at once.
"""

import argparse
import difflib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass as plain_dataclass
from dataclasses import fields, replace
from pathlib import Path
from typing import NamedTuple, get_args

from pydantic.dataclasses import dataclass

from cd4lm.config import STRICT, Number, build, parse_pairs, require
from cd4lm.decoding.config import CACHES, DecodeConfig, exact_cache
from cd4lm.io import write_json

FILE = "generation_config.json"


# Options that several policies share, by their parameter there.
LIMITS = {
    "min_tokens_per_step": "min_tokens",
    "max_tokens_per_step": "max_tokens",
    "max_steps_per_block": "max_steps_per_block",
}


class Entry(NamedTuple):
    """A policy: its class in policies.py, and what its main parameter is called there, as an option and in help texts.

    others: its further options, by their parameter.
    """

    policy: str
    field: str
    option: str
    help: str
    others: Mapping[str, str] = {}


POLICIES = {
    "fixed": Entry(
        "FixedSteps",
        "steps",
        "steps",
        "steps over the whole answer, each committing an equal share",
        {"remasking": "remasking"},
    ),
    "budget": Entry("StepBudget", "tokens", "tokens_per_step", "tokens committed at every step"),
    "cad": Entry(
        "ConfidenceAdaptive",
        "threshold",
        "confidence_threshold",
        "commit tokens whose confidence is at least this",
        LIMITS,
    ),
    "entropy": Entry(
        "EntropyAdaptive",
        "threshold",
        "entropy_threshold",
        "commit tokens whose negative entropy (nats) is at least this",
        LIMITS,
    ),
    "factor": Entry(
        "FactorAdaptive", "factor", "factor", "commit n tokens while (n + 1)(1 - n-th confidence) < factor", LIMITS
    ),
    "entropy_bounded": Entry(
        "EntropyBounded",
        "gamma",
        "entropy_bound",
        "commit tokens whose entropies, less the largest, sum to at most this",
        LIMITS,
    ),
    "multi_block": Entry(
        "MultiBlock",
        "threshold",
        "multi_block_threshold",
        "commit tokens of all open blocks whose entropy (nats) is at most this, or confidence at least",
        {name: name for name in ("certainty", "block_add_threshold", "decoded_token_threshold", "window")},
    ),
}
DEFAULT_POLICY = "cad"
OTHERS = tuple(dict.fromkeys(option for entry in POLICIES.values() for option in entry.others))
# The others by their name in DecodeConfig, which has the defaults.
SETTINGS = {
    name: name
    for name in ("gen_length", "block_length", "temperature", "cfg_scale", "stop_at_eos", "cache", "refresh_interval")
}
SETTINGS |= {"eos_threshold_ratio": "eos_hold_ratio", "infill": "infill", "compile": "compile", "seed": "seed"}
# What a checkpoint's generation_config.json may say; transformers keeps the other names of that file for itself.
STORED = ("policy", *(entry.option for entry in POLICIES.values()), *OTHERS, "gen_length", "block_length")


@plain_dataclass(frozen=True)
class Decoder:
    """A policy and the settings of the run it belongs to; equal decoders share a batch."""

    policy: object
    config: DecodeConfig

    @property
    def policy_name(self) -> str:
        return next(name for name, entry in POLICIES.items() if type(self.policy).__name__ == entry.policy)

    @property
    def name(self) -> str:
        """The policy in the words of its options: main parameter, and others that are not their default."""
        entry, own, usual = POLICIES[self.policy_name], vars(self.policy), vars(type(self.policy)())
        words = [f"{entry.option}={own[entry.field]:g}"]
        words += [f"{option}={own[field]}" for option, field in entry.others.items() if own[field] != usual[field]]
        return f"{self.policy_name}, {', '.join(words)}"

    def about(self) -> dict:
        """Every option with its value, as a run's record keeps it; DecodingOptions.parse reads it again."""
        entry = POLICIES[self.policy_name]
        own = {entry.field: entry.option} | {field: option for option, field in entry.others.items()}
        found = {"policy": self.policy_name}
        found |= {own.get(name, name): value for name, value in vars(self.policy).items()}
        return found | {option: vars(self.config)[name] for option, name in SETTINGS.items()}


@dataclass(frozen=True, config=STRICT)
class DecodingOptions:
    """What may be said about decoding; None = not said, which leaves it to the checkpoint, then to the defaults.

    policy: a name of POLICIES; a policy's main parameter alone implies it. use_dynamic (published): false is
    policy=fixed, true an adaptive one. eos_threshold_ratio (published) is DecodeConfig's eos_hold_ratio; cache without a
    value is the fastest that changes no token of the checkpoint. The rest: policies.py and config.py.
    """

    policy: str | None = None
    steps: int | None = None
    remasking: str | None = None
    tokens_per_step: int | None = None
    confidence_threshold: Number | None = None
    entropy_threshold: Number | None = None
    factor: Number | None = None
    entropy_bound: Number | None = None
    min_tokens_per_step: int | None = None
    max_tokens_per_step: int | None = None
    max_steps_per_block: int | None = None
    multi_block_threshold: Number | None = None
    certainty: str | None = None
    block_add_threshold: Number | None = None
    decoded_token_threshold: Number | None = None
    window: int | None = None
    use_dynamic: bool | None = None
    gen_length: int | None = None
    block_length: int | None = None
    temperature: Number | None = None
    cfg_scale: Number | None = None
    eos_threshold_ratio: Number | None = None
    stop_at_eos: bool | None = None
    cache: str | None = None
    refresh_interval: int | None = None
    infill: bool | None = None
    compile: bool | None = None
    seed: int | None = None

    def __post_init__(self):
        if self.policy is not None:
            check_policy_name(self.policy)
            require(
                self.use_dynamic is None or self.use_dynamic == (self.policy != "fixed"),
                f"use_dynamic={self.use_dynamic} contradicts policy={self.policy}: drop one",
            )

    @classmethod
    def parse(cls, source: str | Mapping, where: str = "") -> "DecodingOptions":
        """Options from `a=1,b=2` or a mapping. Raises ConfigError naming an unknown or unusable one and the nearest name."""
        return build(cls, parse_pairs(source, where) if isinstance(source, str) else dict(source), where)

    @classmethod
    def stored(cls, folder: str | Path) -> "DecodingOptions":
        """What a checkpoint's generation_config.json says of our options; nothing where there is none."""
        file, said = Path(folder) / FILE, read_stored(folder)
        options = cls.parse({name: said[name] for name in STORED if name in said}, f"{file}: ")
        for name, value in vars(options).items():
            require(type(value) is not int or value >= 1, f"{file}: {name}={value} must be at least 1")
        return options

    def save(self, folder: str | Path) -> None:
        """Write what is said beside whatever else the checkpoint's generation_config.json holds, all or nothing."""
        others = {name: value for name, value in read_stored(folder).items() if name not in STORED}
        said = {name: vars(self)[name] for name in STORED if vars(self)[name] is not None}
        write_json(Path(folder) / FILE, others | said)

    def completed(self, base: "DecodingOptions") -> "DecodingOptions":
        """These options, and those of `base` that are not said here."""
        return replace(base, **{name: value for name, value in vars(self).items() if value is not None})

    def chosen_policy(self, stored: "DecodingOptions") -> str:
        """The policy that is meant: the one named, else the one whose main parameter is given, else the stored one."""
        given = [name for name, entry in POLICIES.items() if vars(self)[entry.option] is not None]
        if len(given) > 1:
            names = " and ".join(POLICIES[name].option for name in given)
            raise ValueError(f"{names} belong to different policies ({', '.join(given)}): give only one of them")
        named = "fixed" if self.use_dynamic is False else self.policy
        if named is None:
            usual = stored.policy or DEFAULT_POLICY
            return given[0] if given else DEFAULT_POLICY if self.use_dynamic and usual == "fixed" else usual
        if given and given[0] != named:
            raise ValueError(f"{POLICIES[given[0]].option} belongs to policy {given[0]}, not {named}: drop one")
        return named

    def make_policy(self, stored: "DecodingOptions", gen_length: int):
        """The policy; what is not said comes from `stored`, whose further options hold for its own policy only.

        Without steps, `fixed` commits one of the gen_length tokens per step. Raises ValueError for options that
        contradict each other or do not apply.
        """
        from cd4lm.decoding import policies  # torch takes seconds to import

        name = self.chosen_policy(stored)
        entry = POLICIES[name]
        for option in OTHERS:
            fits = vars(self)[option] is None or option in entry.others
            require(fits, f"{option} does not apply to policy {name}: drop it")
        values = {"steps": gen_length} if name == "fixed" else {}
        for option, field in {entry.option: entry.field, **entry.others}.items():
            same = option == entry.option or name == (stored.policy or DEFAULT_POLICY)
            value = vars(stored)[option] if vars(self)[option] is None and same else vars(self)[option]
            if value is not None:
                values[field] = value
        return vars(policies)[entry.policy](**values)

    def decoder(self, model_config, eos_ids: tuple[int, ...], stored: "DecodingOptions | None" = None) -> Decoder:
        """Policy and settings for a model's configuration. Raises ValueError for what cannot be decoded."""
        from cd4lm.decoding.checks import check_settings

        stored = stored or DecodingOptions()
        said = replace(stored, **{name: vars(self)[name] for name in SETTINGS if vars(self)[name] is not None})
        values = {name: vars(said)[option] for option, name in SETTINGS.items() if vars(said)[option] is not None}
        values.setdefault("cache", exact_cache(model_config.attention))
        config = DecodeConfig(mask_id=model_config.mask_token_id, eos_ids=eos_ids, **values)
        decoder = Decoder(self.make_policy(stored, config.gen_length), config)
        check_settings(model_config, decoder.policy, config)
        return decoder

    def for_checkpoint(self, folder: str | Path, tokenizer=None) -> Decoder:
        """The decoder for a checkpoint, completed from its generation settings; no weights are read.

        tokenizer: the checkpoint's if it is at hand. Raises ValueError for what cannot be decoded.
        """
        from cd4lm.data.examples import check_token_ids, end_ids
        from cd4lm.model.loading import load_config, tokenizer_for_inference

        model_config = load_config(folder)
        tokenizer = tokenizer_for_inference(folder) if tokenizer is None else tokenizer
        check_token_ids(model_config, tokenizer)
        return self.decoder(model_config, end_ids(tokenizer), DecodingOptions.stored(folder))

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser, leave_out: Collection[str] = ()) -> None:
        """An argument for each option, in the groups of GROUPS; what is not given stays not said."""
        groups = {title: parser.add_argument_group(title, about) for title, about in GROUPS.items()}
        for option in fields(cls):
            if option.name in ("use_dynamic", *leave_out):
                continue
            kind = get_args(option.type)[0]
            kind = float if kind is Number else kind
            how = (
                {"action": "store_true", "default": None} if kind is bool else {"type": kind, "metavar": METAVARS[kind]}
            )
            if option.name == "stop_at_eos":
                how = {"action": argparse.BooleanOptionalAction}
            groups[group_of(option.name)].add_argument(f"--{option.name}", help=HELP[option.name], **how)

    @classmethod
    def of_arguments(cls, arguments: argparse.Namespace) -> "DecodingOptions":
        """The options among the arguments of a command line."""
        given = vars(arguments)
        return cls.parse({option.name: given[option.name] for option in fields(cls) if option.name in given})


# What a person wants from the options, in the order of a help text.
GROUPS = {
    "fewer or more steps": "which tokens a step commits; one of these chooses the policy; default: the checkpoint's, else "
    f"{DEFAULT_POLICY} at 0.95",
    "details of a policy": "for those that have them",
    "the answer": "default: the checkpoint's generation settings",
    "less time per step": "what a step recomputes",
}
SPEED = ("cache", "refresh_interval", "compile")


def group_of(option: str) -> str:
    """The title in GROUPS under which a help text has an option."""
    policy, details, answer, speed = GROUPS
    if option in SPEED:
        return speed
    return answer if option in SETTINGS else details if option in OTHERS else policy


METAVARS = {int: "N", float: "X", str: "NAME"}
HELP = {entry.option: f"{name}: {entry.help}" for name, entry in POLICIES.items()} | {
    "policy": f"one of {', '.join(POLICIES)}; a policy's own parameter alone implies it",
    "remasking": "fixed: low_confidence (default) or random",
    "min_tokens_per_step": "least tokens per step (default 1)",
    "max_tokens_per_step": "most tokens per step (default 32)",
    "max_steps_per_block": "steps after which the rest of a block is committed at once (default: no limit)",
    "certainty": "multi_block: entropy (default) or confidence",
    "block_add_threshold": "multi_block: open a block when this share of the one before is committed (default 0.5)",
    "decoded_token_threshold": "multi_block: share from which the next block is fully active; changes no answer",
    "window": "multi_block: most blocks open at once (default: no limit)",
    "gen_length": "length of the answer in tokens",
    "block_length": "tokens per block",
    "temperature": "0 is greedy (default); above 0 samples",
    "cfg_scale": "classifier-free guidance (default 0: off)",
    "eos_threshold_ratio": "commit no EOS before this share of the answer is committed (default 0)",
    "stop_at_eos": "stop an answer at its first EOS (default), or decode what comes after it too",
    "cache": f"one of {', '.join(CACHES)}; prefix and dual are approximate; default: the fastest exact one",
    "refresh_interval": "prefix and dual: recompute everything every N steps of a block",
    "infill": "answer the masks inside the prompt too",
    "compile": "compile the decoding step; the first steps are slow",
    "seed": "of sampling and random remasking (default 0)",
}


def check_policy_name(name: str) -> None:
    """Raise ValueError for a policy that does not exist, naming the nearest."""
    if name not in POLICIES:
        close = difflib.get_close_matches(name, POLICIES, n=1)
        hint = f"did you mean {close[0]}?" if close else f"use one of {', '.join(POLICIES)}"
        raise ValueError(f"policy={name!r} is unknown: {hint}")


def read_stored(folder: str | Path) -> dict:
    """What generation_config.json holds; nothing where there is none. Raises ValueError if it is damaged."""
    file = Path(folder) / FILE
    if not file.is_file():
        return {}
    try:
        stored = json.loads(file.read_bytes().decode())
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", None) or error
        raise ValueError(f"{file} is not valid JSON ({reason}): repair or delete it") from error
    require(isinstance(stored, dict), f"{file} is not a JSON object: repair or delete it")
    return stored
