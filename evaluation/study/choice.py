"""What is chosen on validation problems alone: a world's terms, and an arm's learning rate and length."""

from dataclasses import dataclass

from evaluation.envelope import at_accuracy, at_budget, mean_of
from evaluation.study import records
from evaluation.study.settings import Cell, StudyConfig, grid_of


@dataclass(frozen=True)
class Terms:
    """What a world's models are compared by: `target`, the accuracy that counts as the teacher's, and `budget` in NFE."""

    target: float
    budget: float


def one_token(study: StudyConfig) -> str:
    """The name of the decoder that commits one token per step."""
    return f"fixed, steps={study.gen_length}"


def terms_of(study: StudyConfig, world: str) -> Terms | None:
    """None as long as the world's teacher is not measured."""
    record = records.read(study, Cell(world))
    if record is None:
        return None
    target = record.validation[one_token(study)][1] - study.margin
    needed = mean_of(record.validation, at_accuracy(record.validation, target))[0]
    # Where blocks already fill in one step each there is nothing to halve: no decoder of the envelope can take less.
    least = min(nfe for nfe, _ in record.validation.values())
    return Terms(target, max(study.budget_share * needed, least))


def trials(study: StudyConfig, world: str, arm: str) -> list[dict] | None:
    """The points of an arm's grid with their envelopes, best first by the plan's rule; None as long as one is missing."""
    terms, found = terms_of(study, world), []
    for cell in grid_of(study, world, arm):
        record = records.read(study, cell)
        if terms is None or record is None:
            return None
        accuracy = mean_of(record.validation, at_budget(record.validation, terms.budget))[1]
        needed = at_accuracy(record.validation, terms.target)
        nfe = None if needed is None else mean_of(record.validation, needed)[0]
        found.append({"cell": cell, "accuracy": accuracy, "nfe": nfe})

    def rule(trial: dict) -> tuple:
        nfe = float("inf") if trial["nfe"] is None else trial["nfe"]
        return -trial["accuracy"], nfe, trial["cell"].learning_rate, trial["cell"].steps

    return sorted(found, key=rule)


def chosen(study: StudyConfig, world: str, arm: str) -> Cell | None:
    """The best point of an arm's grid."""
    tried = trials(study, world, arm)
    return tried[0]["cell"] if tried else None
