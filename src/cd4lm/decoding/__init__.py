"""Decoding: one loop (engine), which tokens to commit (policies), what is recomputed (caches), how it is asked for (options).

Names are imported when they are first used, so that options can be read without torch.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cd4lm.decoding.config import DecodeConfig
    from cd4lm.decoding.engine import decode, decode_stream
    from cd4lm.decoding.generation import Generation, generate
    from cd4lm.decoding.options import Decoder, DecodingOptions
    from cd4lm.decoding.policies import (
        ConfidenceAdaptive,
        EntropyAdaptive,
        EntropyBounded,
        FactorAdaptive,
        FixedSteps,
        MultiBlock,
        StepBudget,
    )
    from cd4lm.decoding.result import DecodeResult

HOMES = {
    "DecodeConfig": "config",
    "DecodeResult": "result",
    "Decoder": "options",
    "DecodingOptions": "options",
    "Generation": "generation",
    "decode": "engine",
    "decode_stream": "engine",
    "generate": "generation",
}
__all__ = [
    "ConfidenceAdaptive",
    "DecodeConfig",
    "DecodeResult",
    "Decoder",
    "DecodingOptions",
    "EntropyAdaptive",
    "EntropyBounded",
    "FactorAdaptive",
    "FixedSteps",
    "Generation",
    "MultiBlock",
    "StepBudget",
    "decode",
    "decode_stream",
    "generate",
]


def __getattr__(name: str):
    if name not in __all__:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return vars(importlib.import_module(f"{__name__}.{HOMES.get(name, 'policies')}"))[name]
