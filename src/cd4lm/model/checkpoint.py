"""A checkpoint folder: found, checked and read, every way in which it can be wrong being one clear error."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from cd4lm.io import is_lfs_pointer

if TYPE_CHECKING:
    import torch

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER = "adapter_config.json"  # of peft, with which transformers adds an adapter to the weights that it loads
# The files of a hub checkpoint that are no weights.
SETTINGS = ("*.json", "*.jinja", "*.txt")


class CheckpointError(ValueError):
    """A checkpoint folder that cannot be loaded; the message names the folder, what is wrong and what to do."""


def check_folder(folder: str | Path) -> None:
    """Check a local checkpoint folder before its weights are read; a hub name (owner/model) is left to the hub.

    Raises CheckpointError for a missing folder, no config.json, weights that are missing, damaged or of more than one
    model, and an adapter, which must be merged first.
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
    check_which_weights(path)
    for file in weight_files(path) or path.glob("pytorch_model*.bin"):
        check_header(file)


def check_which_weights(folder: Path) -> None:
    """Raise CheckpointError unless a folder holds the weights of one model, and all of them."""
    shards = sorted(folder.glob("model*.safetensors"))
    single, index, adapter = folder / SINGLE, folder / INDEX, (folder / ADAPTER).is_file()
    whole = bool(shards or index.is_file() or list(folder.glob("pytorch_model*.bin")))
    if adapter and not whole:
        raise CheckpointError(f"{folder} holds an adapter alone: merge it into its base model and pass that folder")
    if adapter:
        raise CheckpointError(
            f"{folder} holds {ADAPTER} beside whole weights: if they are merged, move {ADAPTER} and its weights away, "
            "else merge them first"
        )
    if not whole:
        raise CheckpointError(f"{folder} has no weights (model*.safetensors): the download or copy is incomplete")
    if shards and not single.is_file() and not index.is_file():
        raise CheckpointError(f"{folder} has {shards[0].name} but no {INDEX}: the download or copy is incomplete")
    if single.is_file() and index.is_file() and (others := set(indexed(folder)) - {SINGLE}):
        raise CheckpointError(
            f"{folder} holds {SINGLE} beside {INDEX}, which names {min(others)} and others: remove the weights that are "
            "not meant"
        )


def check_header(file: Path) -> None:
    """Raise CheckpointError for a weights file that cannot be opened; its weights are not read."""
    with open(file, "rb") as opened:
        start = opened.read(200)
    if is_lfs_pointer(start):
        raise CheckpointError(f"{file} is a Git LFS pointer, not the weights: run `git lfs pull`, or download it")
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, "pt"):
                pass
        elif not start.startswith((b"PK", b"\x80")):  # torch.save writes a zip file, and once wrote a pickle
            raise SafetensorError("not written by torch.save")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} is damaged or truncated ({error}): copy it again") from error


def local_folder(folder: str | Path, *, weights: bool, hub: Mapping | None = None) -> Path:
    """The folder of a checkpoint; a hub name is downloaded, its safetensors only where they are asked for.

    hub: further arguments of the download (revision, cache_dir, ...).
    Raises CheckpointError for a folder that does not exist and for a hub name that cannot be downloaded.
    """
    if Path(folder).is_dir():
        return Path(folder)
    check_folder(folder)
    from huggingface_hub import snapshot_download  # only a hub name needs it

    patterns = [*SETTINGS, "*.safetensors"] if weights else [*SETTINGS]
    try:
        return Path(snapshot_download(str(folder), allow_patterns=patterns, **(hub or {})))
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"{folder} is no folder here and cannot be downloaded ({reason}): check the name and the network"
        ) from error


def read_json(file: Path) -> dict:
    """An object from a JSON file. Raises ValueError for anything else."""
    data = file.read_bytes()
    if is_lfs_pointer(data):
        raise ValueError(f"{file.name} is a Git LFS pointer: run `git lfs pull`")
    try:
        tree = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file.name} is not valid JSON, {error}: copy it again") from error
    if not isinstance(tree, dict):
        raise ValueError(f"{file.name} is not a JSON object: copy it again")
    return tree


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint: one, or the shards that its index names; none if it has none."""
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    if not (folder / INDEX).is_file():
        return []
    files = [folder / name for name in indexed(folder)]
    for file in files:
        if not file.is_file():
            raise CheckpointError(f"{folder} has no {file.name}, which {INDEX} names: the download is incomplete")
    return files


def indexed(folder: Path) -> list[str]:
    """The names of the files in a folder's index. Raises CheckpointError if it is damaged."""
    try:
        names = set(read_json(folder / INDEX)["weight_map"].values())
        return sorted(Path(name).name for name in names)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder / INDEX} is damaged ({error}): copy it again") from error


def read_weights(
    files: list[Path],
    shapes: dict[str, tuple[int, ...]],
    dtype: torch.dtype,
    device: torch.device,
    copies: Mapping[str, str],
) -> dict[str, torch.Tensor]:
    """The weights of these names and shapes from safetensors files, strictly. Raises CheckpointError.

    copies: names under which the files may hold a weight a second time.
    """
    check_shapes(files, shapes, copies)
    check_copies(files[0].parent, copies)
    shards = [safe_open(file, "pt", device=str(device)) for file in files]
    return {n: shard.get_tensor(n).to(dtype) for shard in shards for n in sorted(shard.keys()) if n not in copies}


def check_shapes(files: list[Path], shapes: dict[str, tuple[int, ...]], copies: Mapping[str, str]) -> None:
    """Raise CheckpointError unless safetensors files hold weights of these names and shapes; reads no weights."""
    shards = [safe_open(file, "pt") for file in files]
    found = {name: tuple(shard.get_slice(name).get_shape()) for shard in shards for name in sorted(shard.keys())}
    found = {name: shape for name, shape in found.items() if name not in copies}
    report = {
        "missing_keys": shapes.keys() - found.keys(),
        "unexpected_keys": found.keys() - shapes.keys(),
        "mismatched_keys": [(n, found[n], shapes[n]) for n in found.keys() & shapes.keys() if found[n] != shapes[n]],
    }
    check_loading(files[0].parent, report)


def check_copies(folder: Path, copies: Mapping[str, str]) -> None:
    """Raise CheckpointError if a folder holds a weight a second time and the two differ, or the second time alone."""
    for copy, original in copies.items():
        second = stored(folder, copy)
        if second is None:
            continue
        first = stored(folder, original)
        if first is None:
            check_loading(folder, {"missing_keys": [original], "unexpected_keys": [], "mismatched_keys": []})
        if not (first.dtype == second.dtype and first.equal(second)):
            raise CheckpointError(
                f"{folder}: {copy} differs from {original}, but they are one matrix in this model: copy the weights "
                "again, or take a checkpoint whose head is tied"
            )


def stored(folder: Path, name: str) -> torch.Tensor | None:
    """A weight of a checkpoint by its name; None if it has none of that name."""
    for file in weight_files(folder):
        with safe_open(file, "pt") as shard:
            if name in shard.keys():  # noqa: SIM118 - no mapping
                return shard.get_tensor(name)
    for file in () if weight_files(folder) else sorted(folder.glob("pytorch_model*.bin")):
        import torch  # only PyTorch's old files need it here

        if name in (weights := torch.load(file, map_location="cpu", weights_only=True)):
            return weights[name]
    return None


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
