"""Checks that turn the many ways a checkpoint folder can be wrong into one clear error."""

from pathlib import Path

from safetensors import SafetensorError, safe_open


class CheckpointError(ValueError):
    """A checkpoint folder that cannot be loaded; the message names the folder, what is wrong and what to do."""


def check_folder(folder: str | Path) -> None:
    """Check a local checkpoint folder before transformers reads it; a hub name (owner/model) is left to the hub.

    Raises CheckpointError for a missing folder, no config.json, no weights, or an unreadable weights file.
    """
    path = Path(folder)
    if not path.is_dir():
        if path.exists():
            raise CheckpointError(f"{folder} is a file: pass the folder that holds config.json and the weights")
        # A hub name is owner/model and nothing more; anything else was meant as a path.
        if str(folder).startswith((".", "/", "~")) or str(folder).count("/") != 1:
            raise CheckpointError(f"checkpoint folder {folder} does not exist: check the path")
        return
    if not (path / "config.json").is_file():
        raise CheckpointError(f"{folder} has no config.json: not a checkpoint folder in the released layout")
    shards = sorted(path.glob("model*.safetensors"))
    if not shards and not list(path.glob("pytorch_model*.bin")):
        raise CheckpointError(f"{folder} has no weights (model*.safetensors): the download or copy is incomplete")
    for shard in shards:
        try:
            with safe_open(shard, "pt"):
                pass
        except SafetensorError as error:
            raise CheckpointError(f"{shard} is damaged or truncated ({error}): copy it again") from error


def check_loading(folder: str | Path, report: dict) -> None:
    """Raise CheckpointError unless every weight of the model, and no other, was in the files with the right shape.

    `report` is what transformers returns for `output_loading_info=True`.
    """
    for kind, keys in (("missing", report["missing_keys"]), ("unexpected", report["unexpected_keys"])):
        if keys:
            names = sorted(keys)
            raise CheckpointError(f"{folder}: {len(names)} {kind} weight(s), first {names[0]}: not this model's layout")
    if report["mismatched_keys"]:
        first = sorted(report["mismatched_keys"])[0]
        if isinstance(first, str):  # transformers 4 names the weight and no more
            raise CheckpointError(f"{folder}: {first} has another shape than config.json asks for")
        name, found, wanted = first
        raise CheckpointError(f"{folder}: {name} has shape {tuple(found)}, config.json asks for {tuple(wanted)}")
