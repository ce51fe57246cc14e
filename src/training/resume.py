"""Finding where an interrupted run goes on."""

import json
from pathlib import Path


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
