"""How far long work has come: a bar of its own, or lines in a file for the command that started it and shows all of it."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

VARIABLE = "CD4LM_PROGRESS"  # names the file


def shown_elsewhere() -> bool:
    """Whether the command that started this one shows its progress."""
    return VARIABLE in os.environ


class Progress:
    """Use as a context; `add` what has been done, in the units of total.

    initial: done before, in an earlier session. quiet: no bar, for all processes but one.
    """

    def __init__(self, total: float, label: str, unit: str, initial: float = 0, quiet: bool = False):
        self.bar = self.file = None
        if shown_elsewhere():
            self.file = os.open(os.environ[VARIABLE], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            self._write({"total": total, "initial": initial})
        else:
            self.bar = tqdm(total=total, initial=initial, desc=label, unit=unit, disable=quiet)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error) -> None:
        if self.file is not None:
            os.close(self.file)
        else:
            self.bar.close()

    def add(self, n: float = 1, note: str | None = None) -> None:
        """So much more is done; note: a few words to stand beside the bar."""
        if self.file is not None:
            self._write({"add": n, "note": note})
            return
        if note is not None:
            self.bar.set_postfix_str(note, refresh=False)
        self.bar.update(n)

    def _write(self, line: dict) -> None:
        os.write(self.file, (json.dumps(line) + "\n").encode())  # one call: lines of several processes never mix


@dataclass
class Reader:
    """What a file of Progress says so far."""

    path: Path
    done: float = 0.0
    total: float = 0.0
    initial: float = 0.0
    note: str = ""
    place: int = 0

    def refresh(self) -> None:
        """Read the lines that are new and whole."""
        if not self.path.is_file():
            return
        with open(self.path, "rb") as file:
            file.seek(self.place)
            lines = file.read().rpartition(b"\n")[0]
        self.place += len(lines) + bool(lines)
        for line in map(json.loads, lines.splitlines()):
            self.total += line.get("total", 0)
            self.initial += line.get("initial", 0)
            self.done += line.get("add", 0) + line.get("initial", 0)
            self.note = line.get("note") or self.note

    @property
    def share(self) -> float:
        return min(1.0, self.done / self.total) if self.total else 0.0
