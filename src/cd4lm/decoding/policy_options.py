"""The one place where a policy is chosen by name: command lines, the evaluation harness and checkpoints use it.

Names are flat, so that an option is called the same on a command line, in an evaluation's generation arguments and in
a checkpoint's generation_config.json.
"""

import difflib
from dataclasses import dataclass, fields

from cd4lm.decoding.bounded_policies import EntropyBounded, FactorAdaptive
from cd4lm.decoding.policies import (
    Adaptive,
    ConfidenceAdaptive,
    EntropyAdaptive,
    FixedSteps,
    Policy,
    StepBudget,
)

INTEGERS = ("steps", "tokens_per_step", "min_tokens_per_step", "max_tokens_per_step", "max_steps_per_block")
TEXTS = ("policy", "remasking")


@dataclass(frozen=True)
class Entry:
    """A policy of the registry: its class, and what its main parameter is called there and as an option."""

    policy: type
    field: str
    option: str
    help: str


POLICIES = {
    "fixed": Entry(FixedSteps, "steps", "steps", "equal shares over this many steps"),
    "budget": Entry(StepBudget, "tokens", "tokens_per_step", "this many tokens at every step"),
    "cad": Entry(ConfidenceAdaptive, "threshold", "confidence_threshold", "confidence from which a token is committed"),
    "entropy": Entry(EntropyAdaptive, "threshold", "entropy_threshold", "negative entropy, nats, from which it is"),
    "factor": Entry(FactorAdaptive, "factor", "factor", "bound on (n + 1)(1 - n-th confidence)"),
    "entropy_bounded": Entry(EntropyBounded, "gamma", "entropy_bound", "bound, nats, on the entropies but the largest"),
}


def check_name(name: str) -> str:
    """The name of a policy, or ValueError that names the nearest."""
    if name not in POLICIES:
        close = difflib.get_close_matches(name, POLICIES, n=1)
        hint = f"did you mean {close[0]}?" if close else f"use one of {', '.join(POLICIES)}"
        raise ValueError(f"policy={name!r} is unknown: {hint}")
    return name


@dataclass(frozen=True)
class PolicyOptions:
    """What may be said about a policy; None = not said. Raises ValueError for an unknown name or a wrong type."""

    policy: str | None = None
    steps: int | None = None
    remasking: str | None = None
    tokens_per_step: int | None = None
    confidence_threshold: float | None = None
    entropy_threshold: float | None = None
    factor: float | None = None
    entropy_bound: float | None = None
    min_tokens_per_step: int | None = None
    max_tokens_per_step: int | None = None
    max_steps_per_block: int | None = None

    def __post_init__(self):
        for option in fields(PolicyOptions):
            name, value = option.name, vars(self)[option.name]
            kinds = (str,) if name in TEXTS else (int,) if name in INTEGERS else (int, float)
            if value is not None and (not isinstance(value, kinds) or isinstance(value, bool)):
                raise ValueError(f"{name}={value!r} must be {'a text' if name in TEXTS else 'a number'}")
        if self.policy is not None:
            check_name(self.policy)


LIMITS = {
    "min_tokens_per_step": "min_tokens",
    "max_tokens_per_step": "max_tokens",
    "max_steps_per_block": "max_steps_per_block",
}


def policy_name(options: PolicyOptions, default: str) -> str:
    """The policy that the options mean: the one named, else the one whose main parameter is given, else the default."""
    given = [name for name, entry in POLICIES.items() if vars(options)[entry.option] is not None]
    if len(given) > 1:
        names = " and ".join(POLICIES[name].option for name in given)
        raise ValueError(f"{names} belong to different policies ({', '.join(given)}): give only one of them")
    if options.policy is None:
        return given[0] if given else default
    if given and given[0] != options.policy:
        raise ValueError(f"{POLICIES[given[0]].option} belongs to policy {given[0]}, not {options.policy}: drop one")
    return options.policy


def choose_policy(options: PolicyOptions, stored: PolicyOptions, gen_length: int) -> Policy:
    """The policy that options ask for; what they leave open comes from `stored` (a checkpoint's), then the defaults.

    stored.policy must be set. Limits of stored hold for its own policy only. Without steps, `fixed` commits one of the
    gen_length tokens per step. Raises ValueError for options that contradict each other or do not apply.
    """
    name = policy_name(options, stored.policy)
    entry = POLICIES[name]
    limits = LIMITS if issubclass(entry.policy, Adaptive) else {}
    texts = {"remasking": "remasking"} if name == "fixed" else {}
    values = {}
    for option, parameter in {entry.option: entry.field, **limits, **texts}.items():
        value = vars(options)[option]
        if value is None and (option == entry.option or name == stored.policy):
            value = vars(stored)[option]
        if value is not None:
            values[parameter] = value
    for option in (*LIMITS, "remasking"):
        if vars(options)[option] is not None and option not in (*limits, *texts):
            raise ValueError(f"{option} does not apply to policy {name}: drop it")
    if name == "fixed":
        values.setdefault("steps", gen_length)
    return entry.policy(**values)


def describe(policy: Policy) -> str:
    """A policy of the registry in the words of its options: its name, main parameter, and limits that are not default."""
    name, entry = next((name, entry) for name, entry in POLICIES.items() if type(policy) is entry.policy)
    default = entry.policy()
    words = [f"{entry.option}={vars(policy)[entry.field]:g}"]
    if isinstance(policy, Adaptive):
        limits = [(option, vars(policy)[field], vars(default)[field]) for option, field in LIMITS.items()]
        words += [f"{option}={value}" for option, value, usual in limits if value != usual]
    return f"{name}, {', '.join(words)}"
