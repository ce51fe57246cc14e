"""The record of a run: one model with one decoder on one task, as a folder.

run.json: name, task, model, decoder, seed, settings, provenance, protocol. documents.jsonl: a line per document with id, doc (the
row), response (a text, or a list of several samples), right, outcome, answer (what was extracted), nfe, tokens (before EOS),
seconds, truncated. Costs of several samples are their means.
"""

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from cd4lm.config import require
from cd4lm.data.rows import read_jsonl
from cd4lm.io import write_json, write_text


@dataclass(frozen=True)
class Run:
    """A finished run. about: what run.json holds; documents: the lines of documents.jsonl, by id."""

    about: dict
    documents: list[dict] = field(repr=False)

    @classmethod
    def read(cls, folder: Path) -> "Run":
        """Raises ValueError if the run is not there or not finished."""
        for name in ("run.json", "documents.jsonl"):
            require((folder / name).is_file(), f"{folder}/{name} does not exist: finish that evaluation first")
        documents = read_jsonl(folder / "documents.jsonl")
        require(bool(documents), f"{folder}/documents.jsonl holds no documents")
        return cls(json.loads((folder / "run.json").read_text()), documents)

    def write(self, folder: Path) -> None:
        """documents.jsonl first: a folder with run.json is a finished run."""
        lines = (json.dumps(document, ensure_ascii=False) + "\n" for document in self.documents)
        write_text(folder / "documents.jsonl", "".join(lines))
        write_json(folder / "run.json", self.about)

    @property
    def name(self) -> str:
        return self.about["name"]

    @property
    def task(self) -> str:
        return self.about["task"]

    @property
    def protocol(self) -> dict | None:
        """The conditions of evaluation/protocol.py; None for runs of the embedded task and those of earlier versions."""
        return self.about.get("protocol")

    @cached_property
    def right(self) -> np.ndarray:
        """(N,) float64, 0 or 1."""
        return self.column("right")

    def column(self, name: str) -> np.ndarray:
        """One measure of every document, (N,) float64."""
        return np.array([document[name] for document in self.documents], dtype=float)
