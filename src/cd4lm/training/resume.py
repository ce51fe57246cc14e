"""Resume an interrupted run: its last checkpoint, its settings, and the disk space that it needs."""

import json
import os
import shutil
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path

from cd4lm.config import flat, load, require

GIGABYTE = 1e9
# float32 weights and two AdamW moments; where the model itself is bf16 its float32 masters take the first part.
BYTES_PER_PARAMETER = 12
KEPT_CHECKPOINTS = 2
NOT_TRAINING = ("output_dir", "evaluate", "also")  # settings of an experiment that a resumed run may change


def last_checkpoint(folder: str | Path) -> str | None:
    """The newest complete checkpoint-N under folder, or None.

    A run killed while it writes leaves a checkpoint without its trainer_state.json, which the Trainer writes last.
    """
    found = sorted(Path(folder).glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]), reverse=True)
    return next((str(path) for path in found if is_complete(path)), None)


def is_complete(checkpoint: Path) -> bool:
    """Whether a checkpoint's closing file is there and whole."""
    try:
        json.loads((checkpoint / "trainer_state.json").read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return False
    return True


def check_resume(config, folder: Path, *, free: Collection[str] = ()) -> None:
    """Raise ValueError if config differs from the config.yaml of the run in folder, naming every difference.

    free: top-level settings that may differ, because training does not depend on them.
    """
    saved = folder / "config.yaml"
    require(saved.is_file(), f"{folder} holds checkpoints but no config.yaml: resume is unsafe, use another folder")
    before, now = flat(asdict(load(type(config), saved))), flat(asdict(config))
    names = [name for name in before.keys() | now.keys() if before.get(name) != now.get(name)]
    changed = sorted(name for name in names if name.split(".")[0] not in free)
    differences = ", ".join(f"{name}={before.get(name)}, not {now.get(name)}" for name in changed)
    require(not changed, f"{folder} was started with {differences}: resume with that or use another folder")


def run_bytes(parameters: int) -> int:
    """Most bytes that a run writes: the checkpoints kept, one more while the oldest is replaced, and the student."""
    return parameters * (BYTES_PER_PARAMETER * (KEPT_CHECKPOINTS + 1) + 4)


def check_output(folder: Path, needed: int) -> None:
    """Raise OSError if folder cannot be written, ValueError if it has no room for `needed` bytes, less those there."""
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f".probe-{os.getpid()}"
    try:
        with open(probe, "wb") as file:
            file.write(b"\0" * 65536)
            os.fsync(file.fileno())
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror} (a first file could not be written)", str(folder)) from error
    finally:
        probe.unlink(missing_ok=True)
    there = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    free = shutil.disk_usage(folder).free
    require(
        free >= needed - there,
        f"{folder} has {free / GIGABYTE:.1f} GB free but the run may write {(needed - there) / GIGABYTE:.1f} GB more "
        "of checkpoints: free some space or choose another output_dir",
    )
