"""The plan of a study: worlds, arms, how each is tuned and measured, and the questions; written before the runs."""

import json
import re
from dataclasses import asdict, field, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from cd4lm.config import STRICT, Count, Number, Positive, apply_override, build, merged, read_tree, require
from cd4lm.decoding import DecodingOptions
from cd4lm.io import fingerprint, weights_fingerprint
from cd4lm.settings import ExperimentConfig

TEACHER = "teacher"


@dataclass(frozen=True, config=STRICT)
class Crossing:
    """Arms that are measured in worlds with seeds. Five seeds at least carry a verdict, fewer give numbers."""

    arms: Annotated[tuple[str, ...], Field(min_length=1)]
    worlds: Annotated[tuple[str, ...], Field(min_length=1)]
    seeds: Annotated[tuple[Count, ...], Field(min_length=1)]


@dataclass(frozen=True, config=STRICT)
class Tuning:
    """The same grid for every arm: learning rates x steps, each trained once with `seed`.

    The rule: the point with the highest validation accuracy at the world's budget; of equal ones the one with fewer
    forward passes at equal accuracy, then the smaller rate, then fewer steps. decoders: those that a trial is
    measured with, the whole envelope where none is named, in their order until two take more than the budget: what is dearer
    hardly matters for it. more_steps: lengths that the named arms try besides, since they learn a new attention mask;
    more_points: pairs of a rate and a length, for arms whose validation measure still rises at the best rate.
    settings_from: worlds whose arms take what was chosen for them in another one.
    """

    learning_rates: Annotated[tuple[Positive, ...], Field(min_length=1)]
    steps: Annotated[tuple[Count, ...], Field(min_length=1)]
    decoders: tuple[DecodingOptions, ...] = ()
    more_steps: dict[str, tuple[Count, ...]] = field(default_factory=dict)
    more_points: dict[str, tuple[tuple[Positive, Count], ...]] = field(default_factory=dict)
    settings_from: dict[str, str] = field(default_factory=dict)
    seed: int = 0


@dataclass(frozen=True, config=STRICT)
class Contrast:
    """Arm a against arm b in some worlds.

    measure: accuracy, at the world's budget; nfe, at equal accuracy. main: with the other main ones under Holm's
    correction; the rest is exploratory. paired: a seed gives both arms the same rows and masks, so its two students are
    compared with each other.
    """

    a: str
    b: str
    question: str
    worlds: Annotated[tuple[str, ...], Field(min_length=1)]
    measure: Literal["accuracy", "nfe"] = "accuracy"
    main: bool = False
    paired: bool = False


@dataclass(frozen=True, config=STRICT, eq=False)
class StudyConfig:
    """One study, equal only to itself. experiment: the YAML that every student starts from; base: settings that all share.

    worlds, arms: by name, the settings in which each differs; {world} stands for the world's name. decoders: the envelope,
    any decoding options; a teacher's has one token per step besides. reported: those measured on test whatever is chosen.
    validation, test: problems of the two splits; decoders are chosen on the first and judged on the second. mechanism:
    validation problems on which states are compared. margin: accuracy may fall this far under the teacher's at one token per
    step and count as equal. budget_share: a world's budget is this share of the forward passes that its teacher's envelope
    needs at equal accuracy, but no fewer than its cheapest decoder takes. dtype: of the weights while decoding. records:
    folder of what was measured, kept in git; report: the page; findings, limits: files of what a person wrote for it, above
    and below its tables. processes: cells at a time, one thread each.
    """

    experiment: str
    output_dir: str
    worlds: Annotated[dict[str, tuple[str, ...]], Field(min_length=1)]
    arms: Annotated[dict[str, tuple[str, ...]], Field(min_length=1)]
    crossings: Annotated[tuple[Crossing, ...], Field(min_length=1)]
    tuning: Tuning
    decoders: Annotated[tuple[DecodingOptions, ...], Field(min_length=1)]
    contrasts: tuple[Contrast, ...]
    reported: tuple[DecodingOptions, ...] = ()
    base: tuple[str, ...] = ()
    gen_length: Count = 48
    block_length: Count = 8
    batch_size: Count = 250
    validation: Count = 250
    test: Count = 500
    mechanism: Count = 100
    mechanism_threshold: Number = 0.9
    margin: Annotated[Number, Field(ge=0, lt=1)] = 0.01
    budget_share: Annotated[Number, Field(gt=0, le=1)] = 0.5
    dtype: Literal["float32", "bfloat16"] = "float32"
    processes: Count = 2
    records: str = "docs/results/cells"
    report: str = "docs/results.md"
    findings: str | None = None
    limits: str | None = None
    labels: dict[str, str] = field(default_factory=dict)

    def __post_init__(self):
        for kind in ("worlds", "arms"):
            for name in vars(self)[kind]:
                require(
                    bool(re.fullmatch(r"\w+", name)) and name != TEACHER,
                    f"{kind}.{name}: use letters, digits and _, and not {TEACHER}",
                )
        arms = {*self.tuning.more_steps, *self.tuning.more_points, *self.labels}
        arms |= {arm for c in self.crossings for arm in c.arms} | {arm for c in self.contrasts for arm in (c.a, c.b)}
        unknown = sorted(arms - {TEACHER, *self.arms})
        require(not unknown, f"no arm is called {', '.join(unknown)}: see `arms`")
        worlds = {world for c in (*self.crossings, *self.contrasts) for world in c.worlds}
        worlds |= {world for pair in self.tuning.settings_from.items() for world in pair}
        unknown = sorted(worlds - self.worlds.keys())
        require(not unknown, f"no world is called {', '.join(unknown)}: see `worlds`")
        for world, arm in self.pairs():
            source = self.tuning.settings_from.get(world, world)
            require(
                bool(self.seeds(source, arm)) and source not in self.tuning.settings_from.keys() - {world},
                f"tuning.settings_from.{world}: {arm} is not tuned in {source}; see `crossings`",
            )
        for contrast in self.contrasts:
            for world in contrast.worlds:
                for arm in (contrast.a, contrast.b):
                    require(
                        arm == TEACHER or bool(self.seeds(world, arm)),
                        f"contrast {contrast.a} against {contrast.b}: {arm} is not crossed with {world}; see `crossings`",
                    )
        require(
            self.tuning.seed not in {s for c in self.crossings for s in c.seeds},
            "tuning.seed must be none of the seeds",
        )
        require(
            self.mechanism <= self.validation,
            f"mechanism={self.mechanism} must be at most validation={self.validation}",
        )

    def seeds(self, world: str, arm: str) -> list[int]:
        """The seeds with which an arm is measured in a world, ascending."""
        return sorted({s for c in self.crossings if world in c.worlds and arm in c.arms for s in c.seeds})

    def pairs(self) -> list[tuple[str, str]]:
        """Every (world, arm) that is crossed, in the order of the plan."""
        return list(dict.fromkeys((world, arm) for c in self.crossings for arm in c.arms for world in c.worlds))

    def label(self, arm: str) -> str:
        return self.labels.get(arm, arm)


@dataclass(frozen=True, config=STRICT)
class Cell:
    """One student, or with no seed a world's teacher, that is measured."""

    world: str
    arm: str = TEACHER
    learning_rate: float | None = None
    steps: int | None = None
    seed: int | None = None

    @property
    def name(self) -> str:
        own = "" if self.seed is None else f"/rate-{self.learning_rate:g}_steps-{self.steps}_seed-{self.seed}"
        return f"{self.world}/{self.arm}{own}"


def grid_of(study: StudyConfig, world: str, arm: str) -> list[Cell]:
    """The cells among which an arm's settings are chosen in a world; none where they come from another world."""
    tuning = study.tuning
    if world in tuning.settings_from:
        return []
    points = {*product(tuning.learning_rates, (*tuning.steps, *tuning.more_steps.get(arm, ())))}
    points |= {*tuning.more_points.get(arm, ())}
    return [Cell(world, arm, rate, n, tuning.seed) for rate, n in sorted(points)]


def tree_of(study: StudyConfig, cell: Cell) -> dict:
    """What the plan says of a cell's experiment, as nested settings without the defaults."""
    tree = read_tree(Path(study.experiment))
    words = [*study.base, *study.worlds[cell.world], *study.arms.get(cell.arm, ())]
    if cell.seed is not None:
        own = {"learning_rate": cell.learning_rate, "max_steps": cell.steps, "seed": cell.seed}
        words += [f"train.{name}={value}" for name, value in own.items()]
    for word in words:
        apply_override(tree, word.replace("{world}", cell.world))
    return merged(tree, {"output_dir": f"{study.output_dir}/{cell.name}", "evaluate": None, "also": {}})


def experiment_of(study: StudyConfig, cell: Cell) -> ExperimentConfig:
    return build(ExperimentConfig, tree_of(study, cell))


teacher_fingerprint = cache(weights_fingerprint)


@cache
def mark_of(study: StudyConfig, cell: Cell) -> str:
    """Of everything in the plan that a cell's record depends on; a record with another mark is made again."""
    tree = tree_of(study, cell)
    for name in ("output_dir", "evaluate", "also"):  # what no number depends on
        del tree[name]
    names = ["gen_length", "block_length", "validation", "margin", "budget_share", "dtype"]
    decoders = [decoders_of(study, cell)]
    if not is_trial(study, cell):
        names += ["test", "mechanism", "mechanism_threshold"]
        decoders.append(study.reported)
    shown = [[{k: v for k, v in vars(options).items() if v is not None} for options in part] for part in decoders]
    return fingerprint(tree, shown, {n: vars(study)[n] for n in names}, teacher_fingerprint(tree["teacher"]))


def words_of(study: StudyConfig, cell: Cell) -> list[str]:
    """The settings of a cell's experiment for the commands that take a YAML file, then overrides."""
    config = json.loads(json.dumps(asdict(experiment_of(study, cell))))
    return [study.experiment, *(f"{name}={json.dumps(value)}" for name, value in config.items())]


def is_trial(study: StudyConfig, cell: Cell) -> bool:
    """Whether a cell is of the tuning, which looks at no test problem."""
    return cell.seed == study.tuning.seed


def stepwise(study: StudyConfig) -> DecodingOptions:
    """The decoder that commits one token per step."""
    return DecodingOptions(steps=study.gen_length, gen_length=study.gen_length, block_length=study.block_length)


def shaped(study: StudyConfig, decoders: tuple[DecodingOptions, ...]) -> list[DecodingOptions]:
    """Decoders with the study's lengths."""
    return [replace(options, gen_length=study.gen_length, block_length=study.block_length) for options in decoders]


def decoders_of(study: StudyConfig, cell: Cell) -> list[DecodingOptions]:
    """The decoders that a cell is measured with on validation problems."""
    own = study.tuning.decoders if is_trial(study, cell) else ()
    found = shaped(study, own or study.decoders)
    return found if cell.arm != TEACHER else [stepwise(study), *found]
