"""The stored measures of every cell, as arrays of seeds x problems."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from evaluation.study.measures import MEASURES, settings_of
from evaluation.study.settings import TEACHER, Cell, StudyConfig, cells_of
from evaluation.study.store import CellFiles


@dataclass(frozen=True)
class Results:
    """measures: by cell, by measure, the stored record; cells without a complete set are left out."""

    study: StudyConfig
    measures: dict[Cell, dict[str, dict]]

    @classmethod
    def read(cls, study: StudyConfig) -> "Results":
        found = {}
        for cell in cells_of(study):
            files = CellFiles.of(study, cell)
            records = {name: files.read(name, settings_of(study, name)) for name in MEASURES}
            if None not in records.values():
                found[cell] = records
        return cls(study, found)

    @cached_property
    def variants(self) -> list[str]:
        return list(dict.fromkeys(cell.variant for cell in self.measures))

    def missing(self) -> list[Cell]:
        return [cell for cell in cells_of(self.study) if cell not in self.measures]

    def seeds(self, variant: str) -> list[int]:
        return [cell.seed for cell in self.measures if cell.variant == variant and cell.seed is not None]

    def common_seeds(self, a: str, b: str) -> list[int]:
        """The seeds that two variants share; the teacher has none and goes with all."""
        own = [self.seeds(name) for name in (a, b) if name != TEACHER]
        return [seed for seed in own[0] if all(seed in seeds for seeds in own)] if own else []

    def records(self, variant: str, measure: str, seeds: list[int]) -> list[dict]:
        """One record per seed; of the teacher its only one."""
        cells = [Cell(TEACHER)] if variant == TEACHER else [Cell(variant, seed) for seed in seeds]
        return [self.measures[cell][measure] for cell in cells]

    def decoders(self, variant: str, family: str | None = None) -> list[str]:
        """The decoders of a variant, those of one family or all; the teacher's one token per step is its own."""
        first = next(cell for cell in self.measures if cell.variant == variant)
        found = self.measures[first]["frontier"]["decoders"]
        names = [name for name, cell in found.items() if family in (None, cell["family"])]
        return [name for name in names if name != self.one_token]

    @property
    def one_token(self) -> str:
        return f"fixed-{self.study.gen_length}"

    @property
    def headline(self) -> str:
        return f"CAD-{self.study.headline:g}"

    def column(self, variant: str, decoder: str, name: str, seeds: list[int], count: int) -> np.ndarray:
        """right, nfe or length of a decoder: (S, N)."""
        records = self.records(variant, "frontier", seeds)
        return np.array([r["decoders"][decoder]["problems"][name][:count] for r in records], dtype=float)

    def counts(self, variant: str, measure: str, path: tuple[str, ...], seeds: list[int]) -> np.ndarray:
        """An array of another measure, found by the names that lead to it: (S, N, ...)."""
        found = []
        for record in self.records(variant, measure, seeds):
            for name in path:
                record = record[name]
            found.append(record)
        return np.array(found, dtype=float)
