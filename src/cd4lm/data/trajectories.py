"""Recorded decoding paths of a teacher on disk: a manifest and shards of safetensors, and the rows a trainer reads.

A shard holds n paths: row (n,) of the data's train split, temperature (n,), prompt (n, P) left-aligned with
prompt_length (n,), tokens (n, G), order (n, G) the step at which each was committed, and where the manifest says so
hidden (n, G, d), the teacher's last hidden state of each token in the step that committed it, from which the head gives
its logits again.
"""

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.utils.data import Dataset

from cd4lm.config import require
from cd4lm.data.examples import AnswerCollator

MANIFEST = "manifest.json"
HELD_OUT = 20  # of so many questions one is for evaluation


def shard_file(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:05d}.safetensors"


def read_manifest(folder: Path) -> dict:
    """Raises ValueError where there is none."""
    file = folder / MANIFEST
    require(file.is_file(), f"{file} does not exist: run python -m cd4lm.training.collect_trajectories first")
    return {"hidden": True} | json.loads(file.read_text())  # what older collections do not say


def is_complete(folder: Path) -> bool:
    """Whether every shard of a collection is there."""
    if not (folder / MANIFEST).is_file():
        return False
    return all(shard_file(folder, i).is_file() for i in range(read_manifest(folder)["shards"]))


def write_shard(folder: Path, number: int, tensors: dict[str, torch.Tensor]) -> None:
    """A shard appears only when it is whole."""
    file = shard_file(folder, number)
    partial = file.with_suffix(".partial")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial)
    partial.rename(file)


def check_manifest(manifest: dict, expected: dict, folder: Path) -> None:
    """Raise ValueError naming every entry in which a collection is not what is expected of it."""
    wrong = [
        f"{name} is {manifest.get(name)}, not {value}"
        for name, value in expected.items()
        if manifest.get(name) != value
    ]
    require(not wrong, f"{folder} was collected otherwise: {'; '.join(wrong)}: use its settings or another folder")


class TrajectoryDataset(Dataset):
    """Paths of a collection, read from disk one at a time, each with what its question has beside it.

    beside: token ids by row of the train split, for instance the data's own answer, which come under `name`; a path
    whose question has none is left out, None keeps all with nothing beside them. held_out: the paths of every
    HELD_OUT-th question instead of the others. skip_broken: leave damaged shards out, naming them, instead of raising
    ValueError. hidden: read the hidden states too.
    """

    def __init__(
        self,
        folder: Path,
        beside: dict[int, list[int]] | None,
        *,
        held_out: bool,
        skip_broken: bool,
        name: str = "truth",
        hidden: bool = True,
    ):
        manifest = read_manifest(folder)
        require(
            not hidden or manifest["hidden"],
            f"{folder} was collected without hidden states: collect with trajectories.hidden=true into another folder",
        )
        self.beside, self.name, self.files, self.places = beside, name, [], []
        self.tensors = ("row", "prompt", "prompt_length", "tokens", "order", *(["hidden"] if hidden else []))
        self._open: dict[Path, safe_open] = {}
        for number in range(manifest["shards"]):
            file = shard_file(folder, number)
            try:
                with safe_open(file, "pt") as shard:
                    rows = shard.get_tensor("row").tolist()
            except (OSError, SafetensorError) as error:
                require(skip_broken, f"{file} is damaged or missing ({error}): delete it and collect again, or train on "
                        "the rest with trajectories.skip_broken_shards=true")  # fmt: skip
                if not held_out:  # once for the two parts of a collection
                    print(f"left out {file}: damaged or missing", file=sys.stderr)
                continue
            kept = [i for i, row in enumerate(rows) if beside is None or row in beside]
            chosen = [i for i in kept if (rows[i] % HELD_OUT == 0) == held_out]
            self.places += [(len(self.files), i) for i in chosen]
            self.files.append(file)
        require(bool(self.places), f"{folder} holds no trajectory {'for evaluation' if held_out else 'to train on'}")

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> dict:
        number, i = self.places[index]
        file = self.files[number]
        if file not in self._open:
            self._open[file] = safe_open(file, "pt")
        row = {name: self._open[file].get_slice(name)[i] for name in self.tensors}
        example = {
            "example_id": index,
            "prompt": row["prompt"][: row["prompt_length"].item()].tolist(),
            "answer": row["tokens"].tolist(),
            "order": row["order"],
        }
        if self.beside is not None:
            example[self.name] = self.beside[row["row"].item()]
        return example | {name: row[name] for name in self.tensors if name == "hidden"}


class PathCollator:
    """What AnswerCollator makes of the paths, and order (B, L) with -1 off the answer."""

    def __init__(self, pad_id: int, attend_padding: bool = False):
        self.rows = AnswerCollator(pad_id, attend_padding)

    def __call__(self, examples: Sequence[dict]) -> dict[str, torch.Tensor]:
        return self.ordered(self.rows(examples), examples)

    def ordered(self, batch: dict[str, torch.Tensor], examples: Sequence[dict]) -> dict[str, torch.Tensor]:
        order = torch.full(batch["input_ids"].shape, -1)
        order[batch["answer"]] = torch.cat([example["order"].long() for example in examples])
        return batch | {"order": order}


class TrajectoryCollator(PathCollator):
    """PathCollator's tensors, hidden (B, G, d), and under `truth_` what AnswerCollator makes of prompt and the data's
    answer; all of one width L (CDLM)."""

    def __call__(self, examples: Sequence[dict]) -> dict[str, torch.Tensor]:
        both = self.rows([*examples, *(example | {"answer": example["truth"]} for example in examples)])
        B = len(examples)
        batch = {name: value[:B] for name, value in both.items()}
        batch |= {f"truth_{name}": both[name][B:] for name in ("input_ids", "attention_mask", "answer")}
        batch = self.ordered(batch, examples)
        if "hidden" in examples[0]:
            batch["hidden"] = torch.stack([example["hidden"] for example in examples])
        return batch


class PrivilegedCollator(PathCollator):
    """PathCollator's tensors, and under `teacher_` what AnswerCollator makes of the same answers after the teacher's
    longer prompt, of a width of its own (TAD)."""

    def __call__(self, examples: Sequence[dict]) -> dict[str, torch.Tensor]:
        longer = self.rows([example | {"prompt": example["privileged"]} for example in examples])
        names = ("input_ids", "attention_mask", "answer", "prompt_length")
        return super().__call__(examples) | {f"teacher_{name}": longer[name] for name in names}


def collection_bytes(paths: int, gen_length: int, d_model: int, dtype: torch.dtype) -> int:
    """What a collection takes on disk, but for its prompts: hidden states (d_model = 0: none), tokens and order."""
    return paths * gen_length * (d_model * dtype.itemsize + 4 + 4)


def shards_of(paths: int, shard_rows: int) -> list[range]:
    """The paths of each shard, by number."""
    return [range(i * shard_rows, min((i + 1) * shard_rows, paths)) for i in range(math.ceil(paths / shard_rows))]
