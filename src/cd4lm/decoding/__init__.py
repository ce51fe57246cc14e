"""Decoding: one loop (engine), which tokens to commit (policies), what is recomputed (caches)."""

from cd4lm.decoding.bounded_policies import EntropyBounded, FactorAdaptive
from cd4lm.decoding.config import DecodeConfig
from cd4lm.decoding.engine import decode, decode_stream
from cd4lm.decoding.policies import (
    ConfidenceAdaptive,
    EntropyAdaptive,
    FixedSteps,
    StepBudget,
)
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
