"""What was measured of a cell: a small compressed file in the repository, so that another machine goes on from it.

validation: accuracy and mean NFE of every decoder. test (not of tuning cells), of the decoders that validation chooses and
the reported ones: per problem whether the answer is right and its NFE, and the tokens before EOS in all. mechanism: see mechanism.py.
"""

import gzip
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cd4lm.io import provenance
from evaluation.study.settings import Cell, StudyConfig, mark_of


@dataclass(frozen=True)
class Record:
    """One cell's numbers."""

    cell: Cell
    content: dict

    @property
    def validation(self) -> dict[str, tuple[float, float]]:
        """(NFE, accuracy) of each decoder."""
        return points(self.content["validation"])

    def right(self, decoder: str) -> np.ndarray:
        """(N,) 0 or 1 of the test problems."""
        return np.array([float(digit) for digit in self.content["test"][decoder]["right"]])

    def nfe(self, decoder: str) -> np.ndarray:
        """(N,) forward passes of the test problems."""
        return np.array(self.content["test"][decoder]["nfe"], dtype=float)


def points(validation: dict[str, dict]) -> dict[str, tuple[float, float]]:
    """(NFE, accuracy) of each decoder, from what a record keeps of validation."""
    return {name: (found["nfe"], found["accuracy"]) for name, found in validation.items()}


def file_of(study: StudyConfig, cell: Cell) -> Path:
    return Path(study.records) / f"{cell.name}.json.gz"


def read(study: StudyConfig, cell: Cell) -> Record | None:
    """The record of a cell, None where there is none or the plan has changed what it depends on."""
    file = file_of(study, cell)
    if not file.is_file():
        return None
    try:
        content = json.loads(gzip.decompress(file.read_bytes()))
    except (OSError, EOFError, ValueError) as error:
        raise ValueError(f"{file} is damaged ({error}): delete it to measure the cell again") from error
    return Record(cell, content) if content["mark"] == mark_of(study, cell) else None


def write(study: StudyConfig, cell: Cell, content: dict) -> Record:
    """Store a record; it appears only when it is whole."""
    file = file_of(study, cell)
    content = {"cell": cell.name, "mark": mark_of(study, cell), **content, "provenance": provenance()}
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    partial.write_bytes(gzip.compress(json.dumps(content, separators=(",", ":")).encode(), mtime=0))
    partial.replace(file)
    return Record(cell, content)


def columns(documents: list[dict]) -> dict:
    """A decoder's test documents (see evaluation/run.py) as a record keeps them."""
    return {
        "right": "".join(str(int(d["right"])) for d in documents),
        "nfe": [int(d["nfe"]) for d in documents],
        "tokens": sum(d["tokens"] for d in documents),
    }


def means(documents: list[dict]) -> dict:
    """A decoder's validation documents as a record keeps them."""
    n = len(documents)
    return {"accuracy": sum(d["right"] for d in documents) / n, "nfe": sum(d["nfe"] for d in documents) / n}


def differences(a: dict, b: dict) -> list[str]:
    """Where two records of one cell differ, a line per part; their provenance and seconds may."""
    return [
        f"{part} of {name}: {one} against {b[part].get(name)}"[:300]
        for part in ("validation", "test", "mechanism")
        for name, one in (a.get(part) or {}).items()
        if one != (b.get(part) or {}).get(name)
    ]
