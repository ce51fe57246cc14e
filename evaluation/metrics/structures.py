r"""The structure of a mathematical answer: matrix, set or list, tuple or interval, equation, number in a base, expression.

    \begin{pmatrix} 1 & 0 \\ 0 & 1 \end{pmatrix}    Matrix of rows of parts
    (2,12) \cup (12,102)   1 \pm \sqrt{19}   7, 5, 3   \{5\}    Several, in any order
    \left( 3, \frac{\pi}{2} \right)   [2,5)   x > 5     Group with its brackets, in its order
    5x - 7y = 4                                         Relation; `x = 5` and `x \in S` are what stands behind them
    52_8                                                Based
    3\sqrt{13}   864 \mbox{ inches}^2   \text{even}     Leaf with its unit

So that math-verify, which is asked about pairs of leaves, never sees brackets, orders, bases and units that it would drop.
"""

import re
from dataclasses import dataclass, replace

from evaluation.metrics.braces import split_outside
from evaluation.metrics.quantities import value
from evaluation.metrics.units import scaled, split_unit
from evaluation.metrics.wrappers import peel, without_marks

MATRIX, SEVERAL, GROUP, RELATION, BASED, LEAF = "matrix", "several", "group", "relation", "based", "leaf"
DEEPEST = 8

_ENVIRONMENT = re.compile(
    r"[(\[]?\s*\\begin\{(?P<name>[pbB]?(?:small)?matrix|array)\}(?:\{[^{}]*\})?(?P<body>.*)\\end\{(?P=name)\}\s*[)\]]?",
    re.DOTALL,
)
_ROWS, _COLUMNS = re.compile(r"\\\\(?:\[[^\]]*\])?"), re.compile(r"(?<!\\)&")
_COMMA = re.compile(
    r"(?<!\d),|,(?!\d{3}(?!\d))|;|\\text\s*\{\s*,?\s*(?:and|or)\s*\}|\b(?:and|or)\b|\\(?:lor|vee)(?![A-Za-z])"
)
_COMMA_OR_LINE = re.compile(rf"{_COMMA.pattern}|{_ROWS.pattern}")
_RELATIONS = re.compile(r"(\\(?:le|ge|ne|neq|in|equiv|lt|gt)(?![A-Za-z])|=|<|>)")
_APPROXIMATELY = re.compile(r"\\(?:approx|simeq|sim)(?![A-Za-z])")
_UNION = re.compile(r"\\cup(?![A-Za-z])|(?<=[)\]}])\s*(?:U|∪|union)\s*(?=[(\[\\{])")
_PLUS_MINUS = re.compile(r"\\(?:pm|mp)(?![A-Za-z])")
_OPENING = {"(": "(", "[": "[", r"\langle": "(", r"\lbrack": "[", r"\{": "{"}
_CLOSING = {")": ")", "]": "]", r"\rangle": ")", r"\rbrack": "]", r"\}": "}"}
_GROUP = re.compile(
    r"(?P<open>[(\[]|\\langle|\\lbrack|\\\{)(?P<inside>.*?)(?P<close>[)\]]|\\rangle|\\rbrack|\\\})", re.DOTALL
)
_SUCH_THAT = re.compile(r"\s*[A-Za-z]\s*(?:\\in\s*\\mathbb\{R\})?\s*(?:\\mid(?![A-Za-z])|\||:)\s*(?P<x>.*)")
_BASED = re.compile(
    r"\(?\s*(?P<digits>-?[0-9A-Za-z][0-9A-Za-z. ]*?)\s*\)?\s*(?:_\s*(?:(?P<one>\d)|\{\s*\(?\s*(?:\\text\s*\{)?\s*(?:base[\s-]*)?\}?\s*(?P<base>\d+|[a-z]+)\s*\}?\s*\)?\s*\})"
    r"|_?\s*(?:\\text\s*\{)?\s*\(?\s*(?:in\s+)?base[\s-]*(?P<said>\d+|[a-z]+)\s*\)?\s*\}?)"
)
_NUMERALS = {
    name: i
    for i, name in enumerate(
        ["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"], 2
    )
}
_NAME = re.compile(
    r"(?:[A-Za-z]|\\[a-z]+)(?:_\{?\w+\}?|')?(?:\s*\([^()]*\))?|\\?[A-Za-z]{2,}|\\text\s*\{[^{}]*\}|[A-Za-z]{2,}(?:\s[A-Za-z]+)*"
)
_ONE_SIGN = {r"\lt": "<", r"\gt": ">", r"\neq": r"\ne"}
_FLIPPED = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le"}
_INFINITY = r"\infty"


@dataclass(frozen=True)
class Part:
    """One part of an answer.

    text: of a leaf, a relation or the digits of a number in a base; parts: of what is made of parts; mark: a group's
    brackets, a matrix's width, a base, or a relation's sign; unit: a leaf's; name: what stood before `=`.
    """

    kind: str
    text: str = ""
    parts: tuple["Part", ...] = ()
    mark: str = ""
    unit: str | None = None
    name: str | None = None


def parse(text: str, letters: bool = False, depth: int = 0) -> Part:
    """The structure of an answer in the one way of writing (symbols.clean). letters: as units.split_unit."""
    text = " ".join(peel(text).split())
    if depth > DEEPEST:
        return Part(LEAF, text)
    readers = (_matrix, _based, _group, _several, _relation, _union, _plus_minus)
    for reader in readers:
        part = reader(text, letters, depth + 1)
        if part is not None:
            return part
    bare = without_marks(text)
    if bare != text:  # `$12$ dollars`, `**3** and **4**`
        return parse(bare, letters, depth + 1)
    return _leaf(text, letters)


def _leaf(text: str, letters: bool) -> Part:
    rest, unit = split_unit(scaled(text), letters)
    return Part(LEAF, peel(rest), unit=unit)


def _matrix(text: str, letters: bool, depth: int) -> Part | None:
    found = _ENVIRONMENT.fullmatch(text)
    if found is None or r"\begin" in found["body"]:
        return None
    rows = [_COLUMNS.split(row) for row in _ROWS.split(found["body"]) if row.strip()]
    if len({len(row) for row in rows}) != 1:
        return None
    return Part(
        MATRIX, parts=tuple(parse(cell, letters, depth) for row in rows for cell in row), mark=str(len(rows[0]))
    )


def _based(text: str, letters: bool, depth: int) -> Part | None:
    found = _BASED.fullmatch(text.replace("$", ""))
    base = found and (found["one"] or found["base"] or found["said"])
    base = str(_NUMERALS.get(base, base))
    if not base.isdigit() or not re.search(r"\d", found["digits"]) or re.match(r"[a-z]", found["digits"]):
        return None  # x_1 is a variable
    digits = re.sub(r"\s", "", found["digits"]).upper().lstrip("0") or "0"
    return Part(BASED, digits, mark=base)


def _group(text: str, letters: bool, depth: int) -> Part | None:
    found = _GROUP.fullmatch(text)
    if found is None or not _is_one(text):
        return None
    opening, closing = _OPENING[found["open"]], _CLOSING[found["close"]]
    items, _ = split_outside(found["inside"], re.compile(r"[,;]"))
    if opening == "{" or closing == "}":
        condition = _SUCH_THAT.fullmatch(found["inside"])
        if condition:
            return parse(condition["x"], letters, depth)
        return several(parse(item, letters, depth) for item in items) if opening + closing == "{}" else None
    if len(items) == 1:  # (5) is 5, but (3,4) is not 3,4
        return parse(items[0], letters, depth) if (opening, closing) == ("(", ")") and items[0].strip() else None
    return Part(GROUP, parts=tuple(parse(item, letters, depth) for item in items), mark=opening + closing)


def _is_one(text: str) -> bool:
    """Whether the first bracket of a text is closed by its last."""
    depth = 0
    for i, letter in enumerate(text):
        depth += (letter in "([{") - (letter in ")]}")
        if depth == 0 and letter in ")]}":
            return i == len(text) - 1
    return True


def several(parts) -> Part:
    """Parts in any order, those that are several themselves dissolved; one part alone is itself."""
    flat = [inner for part in parts for inner in (part.parts if part.kind == SEVERAL else (part,))]
    return flat[0] if len(flat) == 1 else Part(SEVERAL, parts=tuple(flat))


def _several(text: str, letters: bool, depth: int) -> Part | None:
    pattern = _COMMA if r"\begin" in text else _COMMA_OR_LINE  # lines of equations, but not rows of a matrix
    items = [item.replace("&", " ") for item in split_outside(text, pattern)[0] if without_marks(item).strip()]
    if len(items) < 2 or value(split_unit(scaled(text), letters)[0]) is not None:  # 58,500 is one number
        return None
    return several(parse(item, letters, depth) for item in items)


def as_point(part: Part) -> Part:
    """Coordinates given by name, `x = 8, y = -2`, as the point (8, -2), in the order of the alphabet."""
    names = [inner.name or "" for inner in part.parts]
    named = all(re.fullmatch("[a-z]", name) for name in names) and len(set(names)) == len(names)
    if part.kind != SEVERAL or not named:
        return part
    return Part(GROUP, parts=tuple(sorted(part.parts, key=lambda inner: inner.name)), mark="()")


def _union(text: str, letters: bool, depth: int) -> Part | None:
    items, _ = split_outside(text, _UNION)
    return several(parse(item, letters, depth) for item in items) if len(items) > 1 else None


def _plus_minus(text: str, letters: bool, depth: int) -> Part | None:
    if len(_PLUS_MINUS.findall(text)) != 1:
        return None
    return several(parse(_PLUS_MINUS.sub(sign, text), letters, depth) for sign in "+-")


def _relation(text: str, letters: bool, depth: int) -> Part | None:
    (exact, *rounded), _ = split_outside(without_marks(text), _APPROXIMATELY)
    sides, signs = split_outside(exact, _RELATIONS)
    sides, signs = [side.strip() for side in sides], [_ONE_SIGN.get(sign, sign) for sign in signs]
    if len(sides) == 1 or not all(sides):
        return parse(exact, letters, depth) if rounded and exact.strip() else None
    if signs == [r"\in"] and _NAME.fullmatch(sides[0]):
        return replace(parse(sides[1], letters, depth), name=sides[0])
    if set(signs) == {"="}:
        return _equation(sides, letters, depth)
    return _interval(sides, signs, letters, depth) or Part(RELATION, exact, mark=" ".join(signs))


def _equation(sides: list[str], letters: bool, depth: int) -> Part:
    """`x = 5`, `5 = x` and `x = 2 + 3 = 5` are 5 with a name; others are relations whose last side is their part."""
    named = _NAME.fullmatch(sides[0])
    if not named and len(sides) == 2 and _NAME.fullmatch(sides[1]):
        sides, named = sides[::-1], True
    last = parse(sides[-1], letters, depth)
    if named:
        return replace(last, name=sides[0])
    constant = not re.search(r"(?<![\\A-Za-z])[A-Za-z]", sides[0])  # 52_8 = 42_{10}: one value, written twice
    values = (last, parse(sides[0], letters, depth)) if constant else (last,)
    return Part(RELATION, f"{sides[0]}-({sides[1]})", parts=values, mark="=")


def _interval(sides: list[str], signs: list[str], letters: bool, depth: int) -> Part | None:
    """An inequality in one variable as the interval that solves it: `x > 5` is (5, infinity)."""
    variable = re.compile(r"[A-Za-z]|\\[a-z]+")
    if len(sides) == 2 and variable.fullmatch(sides[1]):
        sides, signs = sides[::-1], [_FLIPPED.get(signs[0], "")]
    if len(sides) == 3 and variable.fullmatch(sides[1]) and set(signs) <= {">", r"\ge"}:
        sides, signs = sides[::-1], [_FLIPPED[sign] for sign in reversed(signs)]
    if len(sides) == 3 and variable.fullmatch(sides[1]) and set(signs) <= {"<", r"\le"}:
        low, name, high = sides
        marks = ("(" if signs[0] == "<" else "[") + (")" if signs[1] == "<" else "]")
    elif len(sides) == 2 and variable.fullmatch(sides[0]) and signs[0] in _FLIPPED:
        name, end = sides
        below, strict = signs[0] in ("<", r"\le"), signs[0] in "<>"
        low, high = (f"-{_INFINITY}", end) if below else (end, _INFINITY)
        marks = "(" + (")" if strict else "]") if below else ("(" if strict else "[") + ")"
    else:
        return None
    return Part(GROUP, parts=(parse(low, letters, depth), parse(high, letters, depth)), mark=marks, name=name)
