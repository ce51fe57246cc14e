"""The files of a cell: one JSON per measure, whole or not there, with what it was measured with."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from cd4lm.config import require
from cd4lm.data.rows import digest, read_jsonl
from cd4lm.io import provenance, write_json
from cd4lm.training.resume import check_resume
from evaluation.study.settings import Cell, StudyConfig, experiment_of, folder_of


def weights_digest(folder: Path) -> str:
    """SHA-256 of a small checkpoint's weights. Raises ValueError where there are none."""
    files = sorted(folder.glob("*.safetensors"))
    require(bool(files), f"{folder} holds no weights: train it first")
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def read_problems(study: StudyConfig) -> list[dict]:
    """The study's problems: the first of the test split of the data that `base` names."""
    file = Path(experiment_of(study, Cell("teacher")).data.dir) / "test.jsonl"
    require(file.is_file(), f"{file} does not exist: python scripts/study.py prepares it")
    rows = read_jsonl(file)[: study.problems]
    require(len(rows) == study.problems, f"{file} holds only {len(rows)} problems, not {study.problems}")
    return rows


@dataclass(frozen=True)
class CellFiles:
    """Where one cell's student and measures lie. folder: other than the study's own when a cell is run again."""

    study: StudyConfig
    cell: Cell
    folder: Path

    @classmethod
    def of(cls, study: StudyConfig, cell: Cell, folder: Path | None = None) -> "CellFiles":
        return cls(study, cell, folder or folder_of(study, cell))

    @property
    def checkpoint(self) -> Path:
        """The student, or the teacher's own checkpoint."""
        if self.cell.seed is None:
            return Path(experiment_of(self.study, self.cell).teacher)
        return self.folder / "student"

    def file(self, measure: str) -> Path:
        return self.folder / "measures" / f"{measure}.json"

    def mark(self, settings: dict) -> str:
        """What a stored measure must agree with to be used again: weights, problems, the settings it depends on."""
        words = [weights_digest(self.checkpoint), digest(read_problems(self.study)), json.dumps(settings)]
        return hashlib.sha256(" ".join(words).encode()).hexdigest()

    def read(self, measure: str, settings: dict) -> dict | None:
        """A stored measure, None if it is not there or was made with something else."""
        file = self.file(measure)
        if not file.is_file() or not self.trained():
            return None
        stored = json.loads(file.read_text())
        return stored if stored["mark"] == self.mark(settings) else None

    def write(self, measure: str, settings: dict, content: dict, seconds: float) -> dict:
        experiment = experiment_of(self.study, self.cell, self.folder)
        record = {
            "cell": self.cell.name,
            "seed": self.cell.seed,
            "mark": self.mark(settings),
            "settings": settings,
            "config": asdict(experiment),
            "seconds": seconds,
            "provenance": provenance(),
            **content,
        }
        write_json(self.file(measure), record, indent=None)
        return json.loads(json.dumps(record))

    def trained(self) -> bool:
        """Whether the weights are there. Raises ValueError if they were trained with other settings."""
        if self.cell.seed is None:
            return True
        if not (self.folder / "student").is_dir():
            return False
        experiment = experiment_of(self.study, self.cell, self.folder)
        check_resume(experiment, self.folder, free=("output_dir", "evaluate", "also"))
        return True
