"""Loading a checkpoint to run it: model, tokenizer, and a device and dtype that suit the machine."""

from pathlib import Path

import torch
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase, Qwen2TokenizerFast
from transformers.models.auto.tokenization_auto import get_tokenizer_config

from cd4lm.model.checkpoint import CheckpointError, check_folder
from cd4lm.model.configuration import DiffusionConfig
from cd4lm.model.dream import DreamModel
from cd4lm.model.llada import DiffusionLM, LLaDAModelLM

MODELS = {model.config_class.model_type: model for model in (LLaDAModelLM, DreamModel)}
# Tokenizer classes that checkpoints bring as code of their own, and the class of the library that reads their files.
TOKENIZERS = {"DreamTokenizer": Qwen2TokenizerFast}


def best_device() -> tuple[torch.device, torch.dtype]:
    """A GPU with bf16 if there is one, else the CPU with float32."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device()), torch.bfloat16
    return torch.device("cpu"), torch.float32


def load_config(folder: str | Path) -> DiffusionConfig:
    """The configuration of a checkpoint, no code of its own run. Raises CheckpointError if it is no model of ours."""
    check_folder(folder)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder}: config.json cannot be used ({str(error).splitlines()[0]})") from error
    if config.model_type not in MODELS:
        raise CheckpointError(f"{folder}: model_type {config.model_type!r} is not one of {', '.join(MODELS)}")
    return config


def model_of(config: DiffusionConfig) -> DiffusionLM:
    """A model of this configuration with fresh weights."""
    return MODELS[config.model_type](config)


def load_model(folder: str | Path, *, dtype: torch.dtype) -> DiffusionLM:
    """The model of the class that a checkpoint's config.json names, on the CPU. Raises CheckpointError."""
    return MODELS[load_config(folder).model_type].from_pretrained(folder, dtype=dtype)


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer saved beside a checkpoint. Raises CheckpointError if there is none."""
    try:
        named = get_tokenizer_config(folder).get("tokenizer_class")
        return TOKENIZERS.get(named, AutoTokenizer).from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{folder} has no usable tokenizer: copy the tokenizer files beside the weights"
        ) from error


def load_for_inference(
    folder: str | Path, dtype: torch.dtype | None = None
) -> tuple[DiffusionLM, PreTrainedTokenizerBase]:
    """Model in evaluation mode on the best device, in dtype or the one that suits it, and its tokenizer."""
    device, suited = best_device()
    model = load_model(folder, dtype=dtype or suited)
    return model.to(device).eval(), load_tokenizer(folder)


def load_tokenizer_for_inference(folder: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer that `load_for_inference` gives, before the weights are read."""
    return load_tokenizer(folder)
