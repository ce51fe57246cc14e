"""Decoding: one loop (engine), which tokens to commit (policies), what is recomputed (caches).

Names are loaded when they are first used, so that options can be read and help printed without importing torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cd4lm.decoding.bounded_policies import EntropyBounded, FactorAdaptive
    from cd4lm.decoding.config import DecodeConfig
    from cd4lm.decoding.engine import decode, decode_stream
    from cd4lm.decoding.policies import ConfidenceAdaptive, EntropyAdaptive, FixedSteps, StepBudget
    from cd4lm.decoding.result import DecodeResult

__all__ = [
    "ConfidenceAdaptive",
    "DecodeConfig",
    "DecodeResult",
    "EntropyAdaptive",
    "EntropyBounded",
    "FactorAdaptive",
    "FixedSteps",
    "StepBudget",
    "decode",
    "decode_stream",
]
MODULES = {
    "DecodeConfig": "config",
    "DecodeResult": "result",
    "EntropyBounded": "bounded_policies",
    "FactorAdaptive": "bounded_policies",
    "decode": "engine",
    "decode_stream": "engine",
}


def __getattr__(name: str):
    if name not in __all__:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(import_module(f"{__name__}.{MODULES.get(name, 'policies')}"), name)
