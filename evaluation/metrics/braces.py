r"""Braces and brackets in LaTeX: partners, whole groups, and splitting where none is open."""

import re

_OPEN, _CLOSE = "([{", ")]}"


def balanced(text: str, start: int) -> str | None:
    r"""What stands between the brace at text[start] and its partner; `\{` and `\}` do not count. None if it is open."""
    depth, i = 0, start
    while i < len(text):
        if text[i] == "\\":
            i += 1
        elif text[i] == "{":
            depth += 1
        elif text[i] == "}":
            depth -= 1
            if depth == 0:
                return text[start + 1 : i]
        i += 1
    return None


def whole_group(text: str, command: str) -> str | None:
    r"""The inside of a text that is one braced group after `command`: `\boxed{42}`; None if it is not."""
    found = re.match(re.escape(command) + r"\s*\{", text)
    inside = balanced(text, found.end() - 1) if found else None
    return inside if inside is not None and found.end() + len(inside) + 1 == len(text) else None


def split_outside(text: str, pattern: re.Pattern) -> tuple[list[str], list[str]]:
    """Pieces of a text between matches of a pattern that lie in no bracket, and the matches; any bracket closes any."""
    depths, depth = [], 0
    for letter in text:
        depth -= letter in _CLOSE
        depths.append(depth)
        depth += letter in _OPEN
    pieces, marks, start = [], [], 0
    for found in pattern.finditer(text):
        if depths[found.start()] == 0:
            pieces.append(text[start : found.start()])
            marks.append(found[0])
            start = found.end()
    return [*pieces, text[start:]], marks
