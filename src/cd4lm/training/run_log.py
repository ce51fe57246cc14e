"""The log of a run: a JSON line per optimizer step, and TensorBoard where it is installed."""

import importlib.util
import json
import os
from pathlib import Path

from cd4lm.io import write_text

NAME = "training_log.jsonl"


class RunLog:
    """Appends to <folder>/training_log.jsonl; a run that resumes at `step` first drops the lines after it."""

    def __init__(self, folder: Path, step: int):
        self.path = folder / NAME
        kept = [line for line in complete_lines(self.path) if json.loads(line)["step"] <= step] if step else []
        write_text(self.path, "".join(kept))
        self.board = tensorboard(folder / "tensorboard", step)

    def write(self, step: int, values: dict[str, float]) -> None:
        """One event of the run; a line is whole or absent, so that a kill leaves a readable file."""
        line = json.dumps({"step": step, **values}) + "\n"
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(file, line.encode())
        finally:
            os.close(file)
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(name, value, step)

    def close(self) -> None:
        if self.board is not None:
            self.board.close()


def complete_lines(path: Path) -> list[str]:
    """The lines of a log, less a last one that was cut short; none if there is no log."""
    if not path.is_file():
        return []
    return [line for line in path.read_text().splitlines(keepends=True) if line.endswith("}\n")]


def tensorboard(folder: Path, step: int):
    """A TensorBoard writer that hides what an interrupted run wrote after `step`, or None without the package."""
    if importlib.util.find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=step + 1 if step else None)
