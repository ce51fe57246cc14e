"""Loading a checkpoint: with transformers to train and save it, without to decode with it.

No module of torch or transformers is imported before a function here needs it: transformers takes seconds.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cd4lm.model.checkpoint import (
    CheckpointError,
    check_folder,
    check_shapes,
    local_folder,
    read_json,
    read_weights,
    weight_files,
)
from cd4lm.model.configuration import DiffusionConfig, LLaDAFields
from cd4lm.model.dream_configuration import DreamFields
from cd4lm.model.illada_configuration import ILLaDAFields
from cd4lm.model.tokenizer import JsonTokenizer, Tokenizer
from cd4lm.model.tokenizer_files import PLAIN_CLASSES, UnsupportedTokenizer, unusable

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from cd4lm.model.llada import DiffusionLM

CONFIGS = {config.model_type: config for config in (LLaDAFields, DreamFields, ILLaDAFields)}


def best_device() -> tuple[torch.device, torch.dtype]:
    """A GPU with bf16 if there is one, else the CPU with float32."""
    import torch

    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device()), torch.bfloat16
    return torch.device("cpu"), torch.float32


def load_config(folder: str | Path) -> DiffusionConfig:
    """The configuration of a checkpoint, no code of its own run. Raises CheckpointError if it is no model of ours."""
    check_folder(folder)
    path = local_folder(folder, weights=False)
    try:
        fields = read_json(path / "config.json")
        kind = next((kind for kind in CONFIGS.values() if kind.model_type == fields.get("model_type")), None)
        if kind is not None:
            return kind.from_file(fields, path)
    except (OSError, ValueError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{folder}: config.json cannot be used ({reason})") from error
    raise CheckpointError(f"{folder}: model_type {fields.get('model_type')!r} is not one of {', '.join(CONFIGS)}")


def model_of(config: DiffusionConfig) -> DiffusionLM:
    """A transformers model of this configuration with fresh weights, to train or save."""
    from cd4lm.model import pretrained

    return pretrained.model_of(config)


def parameter_count(config: DiffusionConfig) -> int:
    """Parameters of a model of this shape, however its weights are spread over processes."""
    import torch

    with torch.device("meta"):
        return model_of(config).num_parameters()


def load_model(folder: str | Path, *, dtype: torch.dtype) -> DiffusionLM:
    """The transformers model that a checkpoint's config.json names, on the CPU. Raises CheckpointError."""
    from cd4lm.model.pretrained import MODELS

    config, files = load_config(folder), weight_files(local_folder(folder, weights=True))
    if files:
        network = empty_network(config)
        check_shapes(files, shapes_of(network), network.copies)
    return MODELS[config.model_type].from_pretrained(folder, dtype=dtype)


def empty_network(config: DiffusionConfig) -> DiffusionLM:
    """The network of a configuration without memory for its weights."""
    import torch

    from cd4lm.model.decoder import Dream, ILLaDA
    from cd4lm.model.llada import LLaDA

    with torch.device("meta"):
        return {"llada": LLaDA, "Dream": Dream, "illada": ILLaDA}[config.model_type](config)


def shapes_of(network: DiffusionLM) -> dict[str, tuple[int, ...]]:
    """The shape of each weight by its name, a weight that is another one left out."""
    return {name: tuple(weight.shape) for name, weight in network.state_dict().items() if name not in network.copies}


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerBase:
    """The transformers tokenizer saved beside a checkpoint. Raises CheckpointError if there is none."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen2TokenizerFast
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    # Dream brings code of its own, whose files the library's class reads; AutoTokenizer takes the others by itself, but
    # warns about config.json where it would not read it.
    classes = {"DreamTokenizer": Qwen2TokenizerFast} | dict.fromkeys(PLAIN_CLASSES, PreTrainedTokenizerFast)
    try:
        named = get_tokenizer_config(folder).get("tokenizer_class")
        return classes.get(named, AutoTokenizer).from_pretrained(folder)
    except Exception as error:  # transformers raises whatever its parsers of the files raise
        if Path(folder).exists():
            load_config(folder)  # may be what the tokenizer's library stumbled over, and says so
        raise CheckpointError(
            f"{folder} has no usable tokenizer: copy the tokenizer files beside the weights"
        ) from error


def tokenizer_for_inference(folder: str | Path) -> Tokenizer:
    """The tokenizer of a checkpoint from its tokenizer.json, or load_tokenizer's where that file is not all of it."""
    files = local_folder(folder, weights=False)
    try:
        return JsonTokenizer(files, name=str(folder))
    except UnsupportedTokenizer:
        return load_tokenizer(folder)
    except (OSError, LookupError, TypeError, AttributeError, UnicodeDecodeError) as error:
        raise unusable(folder, error) from error


def load_network(folder: str | Path, dtype: torch.dtype | None = None) -> DiffusionLM:
    """A checkpoint's network on the best device, in dtype or the one that suits it, in evaluation mode.

    The weights become the network's as they are read. A checkpoint in PyTorch's old .bin files needs transformers.
    Raises CheckpointError for a checkpoint that is incomplete, damaged or of another layout.
    """
    device, suited = best_device()
    dtype = dtype or suited
    config = load_config(folder)
    path = local_folder(folder, weights=True)
    check_folder(path)  # what the hub has sent, too
    files = weight_files(path)
    if not files:
        return load_model(folder, dtype=dtype).to(device).eval()
    network = empty_network(config)
    weights = read_weights(files, shapes_of(network), dtype, device, network.copies)
    copies = {copy: weights[original] for copy, original in network.copies.items()}
    network.load_state_dict(weights | copies, assign=True)
    network.tie()
    return network.eval()


def load_for_inference(folder: str | Path, dtype: torch.dtype | None = None) -> tuple[DiffusionLM, Tokenizer]:
    """load_network's network and its tokenizer, without transformers wherever the checkpoint allows it."""
    return load_network(folder, dtype), tokenizer_for_inference(folder)
