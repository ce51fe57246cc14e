"""Loading a checkpoint to run it: model, tokenizer, and a device and dtype that suit the machine."""

from pathlib import Path

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from src.model.checkpoint import CheckpointError
from src.model.llada import LLaDAModelLM


def best_device() -> tuple[torch.device, torch.dtype]:
    """A GPU with bf16 if there is one, else the CPU with float32."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device()), torch.bfloat16
    return torch.device("cpu"), torch.float32


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer saved beside a checkpoint. Raises CheckpointError if there is none."""
    try:
        return AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{folder} has no usable tokenizer: copy the tokenizer files beside the weights"
        ) from error


def load_for_inference(
    folder: str | Path, dtype: torch.dtype | None = None
) -> tuple[LLaDAModelLM, PreTrainedTokenizerBase]:
    """Model in evaluation mode on the best device, in dtype or the one that suits it, and its tokenizer."""
    device, suited = best_device()
    model = LLaDAModelLM.from_pretrained(folder, dtype=dtype or suited)
    return model.to(device).eval(), load_tokenizer(folder)
