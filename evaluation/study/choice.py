"""What is chosen on validation problems alone: a world's terms, and an arm's learning rate and length."""

from dataclasses import dataclass, replace

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


def terms_from(study: StudyConfig, points: dict[str, tuple[float, float]]) -> Terms:
    """A world's terms from what its teacher's decoders reach on validation, (NFE, accuracy) each."""
    target = points[one_token(study)][1] - study.margin
    needed = mean_of(points, at_accuracy(points, target))[0]
    # Where blocks already fill in one step each there is nothing to halve: no decoder of the envelope can take less.
    return Terms(target, max(study.budget_share * needed, min(nfe for nfe, _ in points.values())))


def terms_of(study: StudyConfig, world: str) -> Terms | None:
    """None as long as the world's teacher is not measured."""
    record = records.read(study, Cell(world))
    return None if record is None else terms_from(study, record.validation)


def choice(points: dict[str, tuple[float, float]], terms: Terms, measure: str) -> dict[str, float] | None:
    """The decoders that validation chooses for a measure, accuracy at the budget or nfe at the target; None = none does."""
    return at_budget(points, terms.budget) if measure == "accuracy" else at_accuracy(points, terms.target)


def trials(study: StudyConfig, world: str, arm: str) -> list[dict] | None:
    """The points of an arm's grid with their envelopes, best first by the plan's rule; None as long as one is missing."""
    terms, found = terms_of(study, world), []
    for cell in grid_of(study, world, arm):
        record = records.read(study, cell)
        if terms is None or record is None:
            return None
        accuracy = mean_of(record.validation, choice(record.validation, terms, "accuracy"))[1]
        needed = choice(record.validation, terms, "nfe")
        nfe = None if needed is None else mean_of(record.validation, needed)[0]
        found.append({"cell": cell, "accuracy": accuracy, "nfe": nfe})

    def rule(trial: dict) -> tuple:
        nfe = float("inf") if trial["nfe"] is None else trial["nfe"]
        return -trial["accuracy"], nfe, trial["cell"].learning_rate, trial["cell"].steps

    return sorted(found, key=rule)


def chosen(study: StudyConfig, world: str, arm: str) -> Cell | None:
    """The best point of an arm's grid, in the world whose grid counts for this one."""
    tried = trials(study, study.tuning.settings_from.get(world, world), arm)
    return replace(tried[0]["cell"], world=world) if tried else None
