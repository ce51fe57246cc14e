"""What the records say of every arm and planned question, with seeds as the unit; S seeds, N test problems."""

from dataclasses import asdict

import numpy as np

from evaluation.intervals import Interval, area_under_roc, holm, over_seeds
from evaluation.study import records
from evaluation.study.choice import Terms, choice, chosen, terms_of, trials
from evaluation.study.records import Record
from evaluation.study.settings import TEACHER, Cell, Contrast, StudyConfig
from evaluation.study.work import cells_to_judge, read_split

LEAST_SEEDS = 5  # for a verdict


def verdict(contrast: Contrast, found: Interval, seeds: int, corrected: float | None, margin: float) -> str:
    """What may be said: with enough seeds a side, equality if the whole interval lies within the margin, or nothing."""
    if seeds < LEAST_SEEDS or found.low is None or not contrast.main:
        return "a number"
    if corrected is not None and corrected < 0.05:
        return "higher" if found.value > 0 else "lower"
    if contrast.measure == "accuracy" and -margin <= found.low and found.high <= margin:
        return "equal"
    return "undecided"


def chosen_columns(record: Record, terms: Terms, measure: str) -> tuple[np.ndarray, np.ndarray] | None:
    """(right, NFE) of the test problems, (N,) each, under the choice that validation makes for a measure; None = no choice."""
    pick = choice(record.validation, terms, measure)
    if pick is None:
        return None
    return tuple(sum(share * column(name) for name, share in pick.items()) for column in (record.right, record.nfe))


def cluster_of(row: dict) -> str:
    """What problems share that are not independent: their arithmetic, or with new numbers their question."""
    return row["key"].partition(":")[0]


class Analysis:
    """Everything that the page tables and plots, from the records of a plan."""

    def __init__(self, study: StudyConfig):
        self.study = study
        self.terms = {world: terms for world in study.worlds if (terms := terms_of(study, world)) is not None}
        self.records: dict[tuple[str, str], list[Record]] = {}
        for world in self.terms:
            self.records[world, TEACHER] = [records.read(study, Cell(world))]
            for arm in (arm for of, arm in study.pairs() if of == world):
                cells = cells_to_judge(study, world, arm) or []
                found = [record for cell in cells if (record := records.read(study, cell)) is not None]
                if found:
                    self.records[world, arm] = found
        rows = {world: read_split(study, Cell(world), "test", study.test) for world in self.terms}
        self.keys = {world: np.array([cluster_of(row) for row in own]) for world, own in rows.items()}

    def columns(self, world: str, arm: str, measure: str, seeds: list[int] | None = None) -> list[np.ndarray] | None:
        """Right and NFE (S, N) each of an arm's seeds under a measure's choice; None where a seed has no choice."""
        own = [r for r in self.records[world, arm] if seeds is None or r.cell.seed in (None, *seeds)]
        found = [chosen_columns(record, self.terms[world], measure) for record in own]
        return None if any(f is None for f in found) else [np.stack(part) for part in zip(*found, strict=True)]

    def seeds(self, world: str, arm: str) -> list[int | None]:
        return [record.cell.seed for record in self.records.get((world, arm), [])]

    def summary(self, world: str, arm: str) -> dict:
        """An arm in a world: accuracy at the budget, NFE at equal accuracy, its tuning and its mechanism."""
        clusters = self.keys[world]
        row = {"world": world, "arm": arm, "seeds": self.seeds(world, arm)}
        own, again = self.records[world, arm], 2 if arm == TEACHER else 1  # a teacher varies with the problems alone
        right, spent = self.columns(world, arm, "accuracy")
        row["accuracy"] = asdict(over_seeds(right.repeat(again, axis=0), None, clusters, False))
        row["spent"], equal = float(spent.mean()), self.columns(world, arm, "nfe")
        row["reached"] = sum(choice(record.validation, self.terms[world], "nfe") is not None for record in own)
        found = None if equal is None else over_seeds(equal[1].repeat(again, axis=0), None, clusters, False)
        row["nfe"] = None if found is None else asdict(found)
        row["nfe_accuracy"] = None if equal is None else float(equal[0].mean())
        row["reported"] = {
            name: np.mean([[column(name).mean() for column in (r.right, r.nfe)] for r in own], axis=0).tolist()
            for name in own[0].content["reported"]
        }
        best = None if arm == TEACHER else chosen(self.study, world, arm)
        row["learning_rate"], row["steps"] = (None, None) if best is None else (best.learning_rate, best.steps)
        return row | {"mechanism": self.mechanism(world, arm)}

    def mechanism(self, world: str, arm: str) -> dict:
        """Means over seeds of what mechanism.py measures, and how well the least confidence ranks right over wrong."""
        own = [record.content["mechanism"] for record in self.records[world, arm]]
        found = {
            f"{part}.{name}": float(np.mean([m[part][name] for m in own]))
            for part in ("invariance", "path")
            for name in own[0][part]
        }
        both = [(m["calibration"]["least_confidence"], m["calibration"]["right"]) for m in own]
        areas = [area for pair in both if (area := area_under_roc(*pair)) is not None]
        return found | {"auroc": float(np.mean(areas)) if areas else None}

    def contrast(self, contrast: Contrast, world: str) -> dict | None:
        """One question in one world; None as long as one side is not there."""
        a, b = self.seeds(world, contrast.a), self.seeds(world, contrast.b)
        if not a or not b:
            return None
        seeds = a if contrast.b == TEACHER else b if contrast.a == TEACHER else sorted({*a} & {*b})
        if not seeds:
            return None
        row = {**asdict(contrast), "world": world, "seeds": len(seeds)}
        sides = [self.columns(world, arm, contrast.measure, seeds) for arm in (contrast.a, contrast.b)]
        if None in [side if side is None else 0 for side in sides]:
            return row | {"a_value": None, "b_value": None, "difference": None}
        one, two = (side[0 if contrast.measure == "accuracy" else 1] for side in sides)
        found = over_seeds(one, two, self.keys[world], contrast.paired)
        by_seed = (one.mean(axis=1) - two.mean(axis=1)).tolist()
        values = {"a_value": float(one.mean()), "b_value": float(two.mean()), "by_seed": by_seed}
        return row | values | {"difference": asdict(found)}

    def contrasts(self) -> list[dict]:
        """Every planned question in every world of it, Holm's correction over all main ones planned."""
        rows = []
        for number, contrast in enumerate(self.study.contrasts, start=1):
            for world in contrast.worlds:
                row = self.contrast(contrast, world) if world in self.terms else None
                if row is not None:
                    rows.append({"id": f"Q{number}.{world}", "plan": contrast, **row})
        tested = [r for r in rows if r["main"] and r["difference"] and r["difference"]["p"] is not None]
        planned = sum(len(contrast.worlds) for contrast in self.study.contrasts if contrast.main)
        for row, p in zip(tested, holm([r["difference"]["p"] for r in tested], planned), strict=True):
            row["holm"] = p
        for row in rows:
            plan, found = row.pop("plan"), row["difference"]
            interval = Interval(**found) if found else Interval(0.0)
            row["verdict"] = verdict(plan, interval, row["seeds"], row.get("holm"), self.study.margin)
        return rows

    def tuning(self) -> list[dict]:
        """Every trial of every grid, with the one that was chosen."""
        rows = []
        for world, arm in self.study.pairs():
            for i, trial in enumerate(trials(self.study, world, arm) or []):
                rows.append({**trial, "cell": trial["cell"].name, "chosen": i == 0})
        return rows

    def everything(self) -> dict:
        """All of it as JSON."""
        return {
            "terms": {world: asdict(terms) for world, terms in self.terms.items()},
            "arms": [self.summary(world, arm) for world, arm in self.records],
            "contrasts": self.contrasts(),
            "tuning": self.tuning(),
        }
