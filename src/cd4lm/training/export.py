"""One safetensors checkpoint in the released layout, from sharded weights.

    python -m cd4lm.training.export outputs/run/checkpoints/checkpoint-200 outputs/run_at_200

reads a checkpoint of plain, DDP, ZeRO or FSDP training, and merges a checkpoint of adapters into the teacher's weights.
Training writes its student in the same way when it ends.
"""

import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import Trainer

from cd4lm.config import CommandParser, exit_with_message, load, require
from cd4lm.decoding.options import DecodingOptions
from cd4lm.model import DiffusionConfig
from cd4lm.model.loading import load_tokenizer, model_of
from cd4lm.settings import ExperimentConfig
from cd4lm.training.fit import student_config
from cd4lm.training.setup import low_precision, start_model


def zero_weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    """The float32 masters of a DeepSpeed checkpoint, gathered from the files of all its processes."""
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    return dict(get_fp32_state_dict_from_zero_checkpoint(str(checkpoint)))


def fsdp_weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    """The weights of a sharded FSDP checkpoint."""
    from accelerate.utils import merge_fsdp_weights

    with tempfile.TemporaryDirectory(dir=checkpoint.parent) as folder:
        merge_fsdp_weights(str(checkpoint / "pytorch_model_fsdp_0"), folder)
        return load_file(Path(folder) / "model.safetensors")


def whole_weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    """The weights of one or several safetensors files."""
    index = checkpoint / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    else:
        names = ["model.safetensors"]
    return {key: tensor for name in names for key, tensor in load_file(checkpoint / name).items()}


def merged_weights(checkpoint: Path, experiment: ExperimentConfig) -> dict[str, torch.Tensor]:
    """The weights that the student started from with a checkpoint's adapters added.

    Raises ArithmeticError if the merge changes the logits of fixed tokens.
    """
    from peft import PeftModel

    from cd4lm.training.lora import merge_adapters  # needs peft, which nothing else does

    base = start_model(experiment, low_precision(experiment.train))
    x = torch.arange(64).multiply(7919).remainder(base.config.vocab_size).view(2, 32)  # (B, L)
    answer = (torch.arange(32) >= 16).expand(2, 32)  # (B, L)
    batch = {"input_ids": x, "attention_mask": torch.ones_like(x), "answer": answer}
    adapted = PeftModel.from_pretrained(base, str(checkpoint))
    return merge_adapters(adapted, batch | {"prompt_length": torch.full((2,), 16)})[0].state_dict()


def read_weights(checkpoint: Path, experiment: ExperimentConfig) -> dict[str, torch.Tensor]:
    """All weights of a checkpoint on the CPU in the highest precision it holds. Raises ValueError if there are none."""
    if (checkpoint / "adapter_model.safetensors").is_file():
        return merged_weights(checkpoint, experiment)
    if (checkpoint / "latest").is_file():
        return zero_weights(checkpoint)
    if (checkpoint / "pytorch_model_fsdp_0").is_dir():
        return fsdp_weights(checkpoint)
    require(
        any(checkpoint.glob("model*.safetensors")),
        f"{checkpoint} holds no weights: pass a checkpoint-N folder of training",
    )
    return whole_weights(checkpoint)


def full_weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    """The student's weights at the end of training, gathered on the first process; every process must call it."""
    if trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:
        return trainer.accelerator.get_state_dict(trainer.model_wrapped)
    return trainer.model.state_dict()


def write_released(
    weights: dict[str, torch.Tensor], config: DiffusionConfig, dtype: str, tokenizer_from: str, out: Path
) -> None:
    """Write weights, config, tokenizer and generation settings; `out` appears only when it is complete and loads."""
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    kind = getattr(torch, dtype)
    with torch.device("meta"):
        model = model_of(config).to(kind)
    weights = {key: tensor for key, tensor in weights.items() if key not in model.copies}  # some launchers keep both
    missing = (model.state_dict().keys() - model.copies.keys()) ^ weights.keys()
    require(not missing, f"{len(missing)} weights do not fit the model, first {min(missing, default='')}")
    model.save_pretrained(partial, state_dict={key: tensor.to(kind).contiguous() for key, tensor in weights.items()})
    load_tokenizer(tokenizer_from).save_pretrained(partial)
    settings = DecodingOptions.stored(tokenizer_from)
    if config.attention == "block_causal":  # it decodes the blocks it was trained on, in CDLM at threshold 0.9
        settings = replace(settings, policy="cad", confidence_threshold=0.9, block_length=config.block_length)
    settings.save(partial)
    partial.rename(out)


def consolidate(checkpoint: Path, out: Path) -> None:
    """Write a checkpoint-N folder of training to `out` in the released layout.

    Raises ValueError if the folder is no checkpoint or `out` exists.
    """
    settings = checkpoint.parent.parent / "config.yaml"
    require(checkpoint.is_dir(), f"{checkpoint} does not exist: pass a checkpoint-N folder of training")
    require(settings.is_file(), f"{settings} does not exist: {checkpoint} is not a checkpoint of training")
    require(not out.exists(), f"{out} exists: choose another folder")
    experiment = load(ExperimentConfig, settings)
    config = student_config(experiment)
    write_released(read_weights(checkpoint, experiment), config, experiment.train.export_dtype, experiment.teacher, out)


def main():
    parser = CommandParser(__doc__)
    parser.add_argument("checkpoint", type=Path, help="checkpoint-N folder of a run")
    parser.add_argument("out", type=Path, help="folder to make")
    arguments = parser.parse_args()
    consolidate(arguments.checkpoint, arguments.out)
    print(arguments.out)


if __name__ == "__main__":
    exit_with_message(main)
