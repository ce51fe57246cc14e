"""LLaDA and Dream in their released checkpoint layouts, registered with transformers' Auto classes."""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from cd4lm.model.checkpoint import CheckpointError
from cd4lm.model.configuration import DiffusionConfig, LLaDAConfig
from cd4lm.model.dream import DreamModel
from cd4lm.model.dream_configuration import DreamConfig
from cd4lm.model.llada import DiffusionLM, LLaDAModelLM, LLaDAOutput

for model in (LLaDAModelLM, DreamModel):
    AutoConfig.register(model.config_class.model_type, model.config_class)
    AutoModel.register(model.config_class, model)
    AutoModelForCausalLM.register(model.config_class, model)

__all__ = [
    "CheckpointError",
    "DiffusionConfig",
    "DiffusionLM",
    "DreamConfig",
    "DreamModel",
    "LLaDAConfig",
    "LLaDAModelLM",
    "LLaDAOutput",
]
