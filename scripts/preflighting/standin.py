"""The shape of a model whose checkpoint may not be here: from its config.json, else as its backbone was released."""

import argparse
from dataclasses import replace
from pathlib import Path

from benchmarking.shapes import DIMENSIONS, SHAPES, config_of
from safetensors.torch import save_file

from cd4lm.model.checkpoint import SETTINGS, SINGLE, CheckpointError
from cd4lm.model.loading import load_config
from cd4lm.model.pretrained import DreamConfig, ILLaDAConfig, LLaDAConfig, saved_config
from cd4lm.settings import ExperimentConfig


def released(name: str):
    """The configuration of the released checkpoint that a hub name speaks of, and what to call it; None if unknown."""
    name = name.lower()
    if "illada" in name:  # the tokenizer files, which are not here, name the mask token
        last = ILLaDAConfig.defaults["vocab_size"] - 1
        return ILLaDAConfig(mask_token_id=last, eos_token_id=last - 1, pad_token_id=last - 1), "iLLaDA-8B as released"
    if "llada" in name and "moe" not in name:
        return LLaDAConfig(**dict(zip(DIMENSIONS, SHAPES["8b"], strict=True))), "LLaDA-8B as released"
    if "dream" in name:
        return DreamConfig(), "Dream-7B as released"
    return None


def here(name: str) -> Path | None:
    """The folder of a checkpoint on this disk: a path, or what an earlier download left of a hub name."""
    if Path(name).is_dir():
        return Path(name)
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        return None
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, local_files_only=True, allow_patterns=[*SETTINGS]))
    except (OSError, ValueError):
        return None


def write(config, folder: Path) -> str:
    """A checkpoint folder of this configuration that holds no weight."""
    saved_config(config).save_pretrained(folder)
    save_file({}, folder / SINGLE)
    return str(folder)


def shape_of(name: str, shape: str | None, folder: Path) -> tuple[str, str]:
    """A folder whose config.json is a checkpoint's, and where that is from. Raises CheckpointError if nobody knows it.

    shape: a shape of scripts/benchmarking/shapes.py in place of the checkpoint's.
    """
    if shape is not None:
        config = config_of(argparse.Namespace(shape=shape, **dict.fromkeys(DIMENSIONS)))
        return write(config, folder), f"--shape {shape}"
    found = here(name)
    if found is not None and (found / "config.json").is_file():
        try:
            return load_config(found) and str(found), f"{name}/config.json"
        except CheckpointError:  # of its weights, which are not needed here; of its configuration this raises again
            for pattern in SETTINGS:
                for file in found.glob(pattern):
                    (folder / file.name).write_bytes(file.read_bytes())
            (folder / "model.safetensors.index.json").unlink(missing_ok=True)
            save_file({}, folder / SINGLE)
            return load_config(folder) and str(folder), f"{name}/config.json"
    known = released(name) if found is None and name.count("/") == 1 and not name.startswith(".") else None
    if known is None:
        raise CheckpointError(
            f"{name} is not here and its shape is not known: check the path, or plan with --shape {'|'.join(SHAPES)}"
        )
    return write(known[0], folder), known[1]


def with_shapes(config: ExperimentConfig, shape: str | None, folder: Path) -> tuple[ExperimentConfig, str]:
    """The experiment on folders whose config.json are its checkpoints', and where those are from."""
    folders, words = {}, []
    for number, name in enumerate(dict.fromkeys(n for n in (config.teacher, config.init_from) if n is not None)):
        own = folder / str(number)
        own.mkdir(parents=True, exist_ok=True)
        folders[name], said = shape_of(name, shape, own)
        words.append(said)
    start = None if config.init_from is None else folders[config.init_from]
    return replace(config, teacher=folders[config.teacher], init_from=start), ", ".join(dict.fromkeys(words))
