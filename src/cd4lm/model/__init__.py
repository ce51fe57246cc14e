"""LLaDA, Dream and iLLaDA in their released checkpoint layouts.

Names are loaded when they are first used: configurations and networks for decoding need torch at most, the classes of
transformers' models and configurations (LLaDAConfig, LLaDAModelLM, ...) import it and register with its Auto classes.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cd4lm.model.checkpoint import CheckpointError
    from cd4lm.model.configuration import DiffusionConfig
    from cd4lm.model.llada import DiffusionLM
    from cd4lm.model.pretrained import (
        DreamConfig,
        DreamModel,
        ILLaDAConfig,
        ILLaDAForCausalLM,
        LLaDAConfig,
        LLaDAModelLM,
        LLaDAOutput,
    )

__all__ = [
    "CheckpointError",
    "DiffusionConfig",
    "DiffusionLM",
    "DreamConfig",
    "DreamModel",
    "ILLaDAConfig",
    "ILLaDAForCausalLM",
    "LLaDAConfig",
    "LLaDAModelLM",
    "LLaDAOutput",
]
TORCH_AT_MOST = {"CheckpointError": "checkpoint", "DiffusionConfig": "configuration", "DiffusionLM": "llada"}


def __getattr__(name: str):
    if name not in __all__:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(import_module(f"{__name__}.{TORCH_AT_MOST.get(name, 'pretrained')}"), name)
