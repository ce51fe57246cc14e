"""Decoding: one loop (engine), which tokens to commit (policies), what is recomputed (caches), how it is asked for (options).

Names are imported when they are first used, so that options can be read without torch.
"""

import importlib

_HOMES = {
    "config": ("DecodeConfig",),
    "engine": ("decode", "decode_stream"),
    "generation": ("Generation", "generate"),
    "options": ("Decoder", "DecodingOptions"),
    "policies": (
        "ConfidenceAdaptive",
        "EntropyAdaptive",
        "EntropyBounded",
        "FactorAdaptive",
        "FixedSteps",
        "StepBudget",
    ),
    "result": ("DecodeResult",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME_OF)


def __getattr__(name: str):
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return vars(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"))[name]
