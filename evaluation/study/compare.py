"""A cell run again against the one stored: every number, those of time aside."""

import json

from evaluation.study.measures import MEASURES
from evaluation.study.store import CellFiles

OF_THE_RUN = {"seconds", "tokens_per_second", "provenance", "config", "mark"}


def numbers(tree, where: str = "") -> dict[str, object]:
    """The leaves of a JSON tree by dotted name, those that belong to the run rather than the result left out."""
    if isinstance(tree, dict):
        parts = [numbers(v, f"{where}.{k}" if where else k) for k, v in tree.items() if k not in OF_THE_RUN]
    elif isinstance(tree, list):
        parts = [numbers(v, f"{where}[{i}]") for i, v in enumerate(tree)]
    else:
        return {where: tree}
    return {name: value for part in parts for name, value in part.items()}


def differences(stored: CellFiles, again: CellFiles) -> list[str]:
    """One line per measure whose numbers differ, with how many do and the first of them."""
    lines = []
    for name in MEASURES:
        a, b = (numbers(json.loads(files.file(name).read_text())) for files in (stored, again))
        wrong = [key for key in a.keys() | b.keys() if a.get(key) != b.get(key)]
        if wrong:
            first = min(wrong, key=list(a | b).index)
            lines.append(
                f"{stored.cell.name} {name}: {len(wrong)} of {len(a)} numbers differ, the first is {first}: "
                f"stored {a.get(first)}, now {b.get(first)}"
            )
    return lines
