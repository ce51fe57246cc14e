"""All measures of one cell, in order, each stored as soon as it is there."""

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

from cd4lm.data import tiny_task
from cd4lm.decoding import ConfidenceAdaptive, Decoder, FixedSteps
from evaluation.intervals import wilson
from evaluation.measure import measure
from evaluation.study.calibration import measure_calibration
from evaluation.study.forgetting import measure_forgetting
from evaluation.study.settings import TEACHER, Cell, StudyConfig, experiment_of
from evaluation.study.states import measure_states
from evaluation.study.store import CellFiles, read_problems
from evaluation.study.subject import Subject


@dataclass(frozen=True)
class Setting:
    """A decoder of the study: the family it belongs to in plots, its setting, the policy."""

    family: str
    setting: float
    policy: object

    @property
    def name(self) -> str:
        return f"{self.family}-{self.setting:g}"


def decoders(study: StudyConfig, cell: Cell) -> list[Setting]:
    """CAD thresholds and fixed budgets; of the teacher also one token per step, the reference of every cell."""
    budgets = (study.gen_length, *study.fixed_steps) if cell.variant == TEACHER else study.fixed_steps
    fixed = [Setting("fixed", steps, FixedSteps(steps=steps)) for steps in budgets]
    return fixed + [Setting("CAD", tau, ConfidenceAdaptive(threshold=tau)) for tau in study.thresholds]


def summarise(cell: dict) -> dict:
    """Means over the problems of a decoder's record, the accuracy with its Wilson interval."""
    right, nfe, length = (sum(cell["problems"][name]) for name in ("right", "nfe", "length"))
    n = len(cell["problems"]["right"])
    return {
        "accuracy": right / n,
        "accuracy_95": wilson(right, n),
        "nfe": nfe / n,
        "tokens_before_eos": length / n,
        "tokens_per_forward": length / nfe,
        "tokens_per_second": length / cell["seconds"],
    }


def run(subject: Subject, setting: Setting, count: int, **changes) -> dict:
    """Accuracy, NFE and lengths of one decoder on the first `count` problems."""
    decoder = Decoder(setting.policy, subject.decoding(**changes))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # blocks a checkpoint was not trained with are what is measured
        how = {"batch_size": subject.study.batch_size, "score": tiny_task.score, "label": setting.name}
        documents = measure(subject.model, subject.tokenizer, subject.rows[:count], decoder, **how)
    columns = {"right": "right", "nfe": "nfe", "length": "tokens"}
    found = {"problems": {name: [int(d[column]) for d in documents] for name, column in columns.items()}}
    found["seconds"] = max(d["clock"] for d in documents)
    return found | {"family": setting.family, "setting": setting.setting} | summarise(found)


def measure_frontier(subject: Subject, cell: Cell) -> dict:
    study = subject.study
    return {"decoders": {d.name: run(subject, d, study.problems_of(cell.variant)) for d in decoders(study, cell)}}


def measure_transfer(subject: Subject) -> dict:
    """CAD at the headline threshold with blocks and canvases that no student was trained for."""
    study = subject.study
    decoder = Setting("CAD", study.headline, ConfidenceAdaptive(threshold=study.headline))
    shapes = [(study.gen_length, study.block_length)]
    shapes += [(study.gen_length, block) for block in study.transfer_block_lengths]
    shapes += [(length, study.block_length) for length in study.transfer_gen_lengths]
    names = [f"canvas {length}, blocks of {block}" for length, block in shapes]
    runs = [run(subject, decoder, study.transfer_problems, gen_length=g, block_length=b) for g, b in shapes]
    return {"shapes": dict(zip(names, runs, strict=True))}


@dataclass(frozen=True)
class Measure:
    """A measure and the settings of the study that it depends on besides those of decoding.

    revision: raised where the same settings mean another number than before, so that stored ones are made again.
    """

    take: Callable[[Subject, Cell, Subject | None], dict]
    settings: tuple[str, ...]
    with_teacher: bool = False
    revision: int = 1


DECODING = ("gen_length", "block_length", "seed", "problems")
MEASURES = {
    "frontier": Measure(lambda s, c, t: measure_frontier(s, c), ("thresholds", "fixed_steps", "exploratory_problems")),
    "calibration": Measure(lambda s, c, t: measure_calibration(s), ("thresholds", "subset")),
    "forgetting": Measure(lambda s, c, t: measure_forgetting(s), ("subset", "held_out", "nll_samples")),
    "transfer": Measure(
        lambda s, c, t: measure_transfer(s),
        ("headline", "transfer_problems", "transfer_block_lengths", "transfer_gen_lengths"),
    ),
    "states": Measure(lambda s, c, t: measure_states(s, t), ("headline", "subset"), with_teacher=True, revision=2),
}


def settings_of(study: StudyConfig, name: str) -> dict:
    """The settings a stored measure must have been made with."""
    found = {key: vars(study)[key] for key in (*DECODING, *MEASURES[name].settings)}
    return found if MEASURES[name].revision == 1 else found | {"revision": MEASURES[name].revision}


def missing(files: CellFiles) -> list[str]:
    """The measures of a cell that are still to be made."""
    return [name for name in MEASURES if files.read(name, settings_of(files.study, name)) is None]


def measure_cell(files: CellFiles, note: Callable[[str], None] = lambda text: None) -> None:
    """Make and store what is missing of a trained cell. note: told what begins."""
    wanted = missing(files)
    if not wanted:
        return
    study, rows = files.study, read_problems(files.study)
    subject = Subject.load(study, files.checkpoint, rows)
    teacher = None
    for name in wanted:
        note(name)
        entry = MEASURES[name]
        if entry.with_teacher and teacher is None:
            teacher = Subject.load(study, experiment_of(study, Cell(TEACHER)).teacher, rows)
        start = time.perf_counter()
        content = entry.take(subject, files.cell, teacher)
        files.write(name, settings_of(study, name), content, time.perf_counter() - start)
