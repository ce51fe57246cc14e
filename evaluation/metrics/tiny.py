"""Exact match on the embedded task: the number after the last `####`."""

import re

_RESULT = re.compile(r"####\s*(-?\d+)")


def final_number(text: str) -> int | None:
    """The integer after the last `####`, or None where there is none."""
    found = _RESULT.findall(text)
    return int(found[-1]) if found else None


def score(doc: dict, response: str) -> bool:
    """Whether the response ends in the number that doc["answer"] ends in; a missing number is wrong."""
    return final_number(response) is not None and final_number(response) == final_number(doc["answer"])
