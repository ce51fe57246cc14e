"""The settings of a study: what is trained, what is measured, and the plan of comparisons, written before the runs."""

import re
from dataclasses import field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from cd4lm.config import STRICT, Count, Number, Positive, Probability, load, require
from cd4lm.decoding import DecodeConfig, DecodingOptions
from cd4lm.settings import ExperimentConfig

TEACHER = "teacher"
NEEDED = re.compile(r"\{output_dir\}/([\w-]+)/seed-\{seed\}/")
MEASURES = Literal["nfe", "accuracy_at_nfe", "accuracy", "error_at_threshold", "nll", "wordings"]


@dataclass(frozen=True, config=STRICT)
class Contrast:
    """One planned comparison: cell family a against b, the claim in words, and the measure that decides it.

    measure: nfe, forward passes of CAD at the teacher's accuracy; accuracy_at_nfe, accuracy of CAD at `budget` forward
    passes, thresholds mixed as it takes; accuracy, with CAD at the headline threshold; error_at_threshold, nll (nats
    per token of the data's answers) and wordings (entropy in bits): see calibration.py and forgetting.py.
    main: corrected for multiplicity together with the other main ones; the rest is exploratory.
    """

    a: str
    b: str
    claim: str
    measure: MEASURES
    main: bool = False


@dataclass(frozen=True, config=STRICT)
class StudyConfig:
    """One study. experiment: the YAML that every variant starts from, base: settings that all share.

    variants: by name, the settings in which each differs; {output_dir} and {seed} stand for the study's own. A variant
    in `main` is trained with every seed, the others with the first alone; the untrained teacher is always measured.
    problems: of the test split; exploratory_problems: of variants outside `main`, the first so many, null = all.
    subset: problems for calibration, states and samples; held_out: answers for the NLL, each in nll_samples states;
    transfer: problems with block lengths and a length of canvas not trained with. margin: accuracy may fall this far
    under the teacher's at one token per step and count as equal. budget: forward passes of accuracy_at_nfe.
    processes: cells at a time, one thread each. report: the page written; its plots and JSON go beside it.
    labels: what a variant is called in print. amendments: what was changed in this file after it was first
    written, and when.
    """

    experiment: str
    output_dir: str
    variants: Annotated[dict[str, tuple[str, ...]], Field(min_length=1)]
    contrasts: tuple[Contrast, ...]
    base: tuple[str, ...] = ()
    main: tuple[str, ...] = ()
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (1, 2, 3)
    problems: Count = 1000
    exploratory_problems: Count | None = None
    subset: Count = 100
    held_out: Count = 200
    nll_samples: Count = 8
    transfer_problems: Count = 200
    transfer_block_lengths: tuple[Count, ...] = ()
    transfer_gen_lengths: tuple[Count, ...] = ()
    timed_problems: Count = 20
    gen_length: Count = 40
    block_length: Count = 20
    batch_size: Count = 250
    thresholds: tuple[Probability, ...] = (0.95, 0.85, 0.7, 0.5)
    fixed_steps: Annotated[tuple[Count, ...], Field(min_length=1)] = (10, 4)  # CAD is compared with the first
    headline: Number = 0.85
    margin: Annotated[Number, Field(ge=0, lt=1)] = 0.01
    budget: Positive = 10.0
    resamples: Count = 2000
    seed: int = 0
    processes: Count = 1
    report: str = "docs/results.md"
    labels: dict[str, str] = field(default_factory=dict)
    amendments: tuple[str, ...] = ()

    def __post_init__(self):
        require(len(set(self.seeds)) == len(self.seeds), f"seeds={list(self.seeds)} must differ from each other")
        for name in self.variants:
            require(
                bool(re.fullmatch(r"[\w-]+", name)) and name not in (TEACHER, "reruns"),
                f"variants.{name}: use letters, digits, _ and -, and neither {TEACHER} nor reruns",
            )
        fewest = min(self.problems, self.exploratory_problems or self.problems)
        most = max(self.subset, self.held_out, self.transfer_problems, self.timed_problems)
        require(most <= fewest, f"problems={fewest} must be at least every subset of them, {most}")
        require(self.headline in self.thresholds, f"thresholds must hold the headline {self.headline}")
        known = {TEACHER, *self.variants}
        named = {*self.main, *self.labels, *(c.a for c in self.contrasts), *(c.b for c in self.contrasts)}
        named |= {needed for settings in self.variants.values() for needed in NEEDED.findall(" ".join(settings))}
        require(named <= known, f"no variant is called {', '.join(sorted(named - known))}: see `variants`")

    def problems_of(self, variant: str) -> int:
        """How many problems a variant's decoders are measured on."""
        exploratory = self.exploratory_problems is not None and variant not in (TEACHER, *self.main)
        return self.exploratory_problems if exploratory else self.problems

    def label(self, variant: str) -> str:
        return self.labels.get(variant, variant)


@dataclass(frozen=True, config=STRICT)
class Cell:
    """One variant with one seed; the teacher, untrained, has none."""

    variant: str
    seed: int | None = None

    @property
    def name(self) -> str:
        return self.variant if self.seed is None else f"{self.variant}/seed-{self.seed}"


def cells_of(study: StudyConfig) -> list[Cell]:
    """Every cell: the teacher, all variants with the first seed, then the main ones with the others."""
    first, *others = study.seeds
    cells = [Cell(TEACHER), *(Cell(name, first) for name in study.variants)]
    return cells + [Cell(name, seed) for seed in others for name in study.variants if name in study.main]


def cell_named(study: StudyConfig, name: str) -> Cell:
    found = [cell for cell in cells_of(study) if cell.name == name]
    require(bool(found), f"no cell is called {name!r}: use one of {', '.join(cell.name for cell in cells_of(study))}")
    return found[0]


def folder_of(study: StudyConfig, cell: Cell) -> Path:
    return Path(study.output_dir) / cell.name


def training_settings(study: StudyConfig, cell: Cell, output: Path) -> list[str]:
    """What src/cd4lm/training is given for a cell whose student goes to output/student: a YAML file, then overrides."""
    fill = {"{output_dir}": study.output_dir, "{seed}": str(cell.seed)}
    settings = [*study.base, *study.variants.get(cell.variant, ())]
    for place, value in fill.items():
        settings = [setting.replace(place, value) for setting in settings]
    own = [f"output_dir={output}", "evaluate=null", "also={}"]
    if cell.seed is not None:
        own.append(f"train.seed={cell.seed}")
    return [study.experiment, *settings, *own]


def needed_cells(study: StudyConfig, cell: Cell) -> list[Cell]:
    """The cells whose student this one starts from."""
    return [Cell(name, cell.seed) for name in NEEDED.findall(" ".join(study.variants.get(cell.variant, ())))]


def experiment_of(study: StudyConfig, cell: Cell, output: Path | None = None) -> ExperimentConfig:
    path, *overrides = training_settings(study, cell, output or folder_of(study, cell))
    return load(ExperimentConfig, path, overrides)


def decoding_of(study: StudyConfig, model_config, eos_ids: tuple[int, ...], **changes) -> DecodeConfig:
    """What every decoder of the study shares, with changes for one measure."""
    shared = {"gen_length": study.gen_length, "block_length": study.block_length, "seed": study.seed}
    return DecodingOptions(**(shared | changes)).decoder(model_config, eos_ids).config
