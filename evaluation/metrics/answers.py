"""Finding the final answer in a model's text."""

import re
from decimal import Decimal, InvalidOperation

# What ends a turn in the tokenizers of LLaDA and Dream, and what would start the next one.
END_MARKS = ("<|endoftext|>", "<|eot_id|>", "<|im_end|>", "<|end_of_text|>", "<|start_header_id|>")
_END = re.compile("|".join(map(re.escape, END_MARKS)))
_NUMBER = re.compile(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?|(?<![\w.])-?\.\d+|(?<=[A-Za-z_])-?\d[\d,]*(?:\.\d+)?")
_FRACTION = re.compile(r"(-?)\\[dt]?frac\s*\{(\d+)\}\s*\{(\d+)\}")


def before_end(text: str) -> str:
    """The text up to the first end mark; what a model writes after it never counts."""
    found = _END.search(text)
    return text[: found.start()] if found else text


def answer_section(text: str) -> str | None:
    """What the last <answer> holds, to </answer> or else to the end of the text; None where there is no <answer>."""
    _, mark, rest = text.rpartition("<answer>")
    return rest.partition("</answer>")[0] if mark else None


def last_boxed(text: str) -> str | None:
    r"""What the last \boxed{} or \fbox{} with balanced braces holds (also `\boxed 7`), or None."""
    for found in reversed(list(re.finditer(r"\\(?:boxed|fbox)\s*(\{|(?P<bare>[^\s{}$]+))", text))):
        if found["bare"] is not None:
            return found["bare"]
        inside = balanced(text, found.end() - 1)
        if inside is not None:
            return inside
    return None


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


def last_number(text: str) -> Decimal | None:
    r"""The last number, with thousands separators, LaTeX's too, and simple fractions; None where there is none."""
    text = text.replace("\u2212", "-").replace("{,}", ",").replace("\\,", "").replace("\\!", "").replace("\\$", "$")
    text = _FRACTION.sub(r"\1\2/\3", text).replace("-$", "$-").replace("$", " ")
    found = None
    for match in _NUMBER.finditer(text):
        found = match
    if found is None:
        return None
    value = decimal(found[0])
    over = re.search(r"(?<![\w./])(-?\d+)\s*/\s*$", text[: found.start()])
    return decimal(over[1]) / value if over and value else value


def decimal(text: str) -> Decimal:
    """A number as written, without thousands separators."""
    try:
        return Decimal(text.replace(",", "").strip())
    except InvalidOperation:
        raise ValueError(f"{text!r} is not a number") from None
