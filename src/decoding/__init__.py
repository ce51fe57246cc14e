"""Decoding: one loop (engine), which tokens to commit (policies), what is recomputed (caches)."""

from src.decoding.bounded_policies import EntropyBounded, FactorAdaptive
from src.decoding.config import DecodeConfig
from src.decoding.engine import decode, decode_stream
from src.decoding.policies import (
    ConfidenceAdaptive,
    EntropyAdaptive,
    FixedSteps,
    StepBudget,
)
from src.decoding.result import DecodeResult

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
