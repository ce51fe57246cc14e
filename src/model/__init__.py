"""LLaDA in the released checkpoint layout, registered with transformers' Auto classes."""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from src.model.checkpoint import CheckpointError
from src.model.configuration import LLaDAConfig
from src.model.llada import LLaDAModelLM, LLaDAOutput

AutoConfig.register("llada", LLaDAConfig)
AutoModel.register(LLaDAConfig, LLaDAModelLM)
AutoModelForCausalLM.register(LLaDAConfig, LLaDAModelLM)

__all__ = ["CheckpointError", "LLaDAConfig", "LLaDAModelLM", "LLaDAOutput"]
