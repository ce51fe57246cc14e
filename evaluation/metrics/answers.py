r"""Finding the final answer in a model's text.

Of the text before the first end mark, in the last <answer> section where there is one, the first of these that is there:
the last \boxed{} (boxes joined by commas, "and" or "or" are one list); a text that is a formula or number as a whole; what
follows the last `####`, if that is an answer and no heading; what follows the last "answer is" or "answer:"; the last
sentence.
"""

import re
from dataclasses import dataclass

from evaluation.metrics.braces import balanced
from evaluation.metrics.quantities import NUMBER
from evaluation.metrics.symbols import CURRENCY, clean, is_prose
from evaluation.metrics.wrappers import is_negated, peel

# What ends a turn in the tokenizers of LLaDA and Dream, and what would start the next one.
END_MARKS = ("<|endoftext|>", "<|eot_id|>", "<|im_end|>", "<|end_of_text|>", "<|start_header_id|>")
LONGEST, MOST_BOXES = 3000, 50  # letters of an answer, and boxes of a list; what is longer is no answer
BOXED, WHOLE, HEADING, STATEMENT, SENTENCE = "boxed", "whole", "heading", "statement", "sentence"

_END = re.compile("|".join(map(re.escape, END_MARKS)))
_BOX = re.compile(r"\\(?:boxed|fbox)\s*(\{|(?P<bare>[^\s{}$]+))")
_MATHEMATICS = r"\\\[.*?\\\]|\$\$.*?\$\$|\\\(.*?\\\)|\$[^$]*\$|\\begin\{(?P<env>\w+\*?)\}.*?\\end\{(?P=env)\}|(?P<code>`{1,3}).+?(?P=code)"
_PIECE = re.compile(rf"(?P<formula>{_MATHEMATICS})|(?P<end>(?<!\b[A-Z])[.!?](?=[*_)\"']*(?:\s|$))|\n)", re.DOTALL)
_CUE = re.compile(
    r"\banswers?\b[*_`\"']*(?:[^.\n:=$\\]{0,80}?(?:\b(?:is|are|equals?|must be|would be|will be|was)\b|[:=])|[ \t]*\n)[ \t]*(?::|equal to)?",
    re.IGNORECASE,
)
_JOINER = re.compile(
    r"(?:[\s$.,;&*]|\\[()\[\],;]|\\q?quad|\band\b|\bor\b|\\text\s*\{\s*(?:and|or|,)\s*\}|[A-Za-z](?:_\{?\d\}?)?\s*=)*"
)
_CLAUSE = re.compile(
    r"(?<=[\w}\])$*°%.])\s*[,;]?\s+(?:because|since|which|where|so|as|when|if|for|by|given|after)\b.*", re.DOTALL
)
_RULE_LINE = re.compile(r"[ \t]*(?:[-*_=]{3,}|#{1,6}.*|```\w*)[ \t]*")
_ITEM = re.compile(r"^[ \t]*\d{1,2}[.)][ \t]+(?=\S)", re.MULTILINE)


@dataclass(frozen=True)
class Found:
    """The pieces of text that together are the answer (several boxes: a list), and where they were found."""

    pieces: tuple[str, ...]
    place: str

    @property
    def text(self) -> str:
        return ", ".join(self.pieces)


def before_end(text: str) -> str:
    """The text up to the first end mark; what a model writes after it never counts."""
    found = _END.search(text)
    return text[: found.start()] if found else text


def answer_section(text: str) -> str | None:
    """What the last <answer> holds, to </answer> or else to the end of the text; None where there is no <answer>."""
    _, mark, rest = text.rpartition("<answer>")
    return rest.partition("</answer>")[0] if mark else None


def after_thinking(text: str) -> str:
    """What follows the last end of a chain of thought; the whole text if nothing does."""
    rest = re.split(r"</(?:think|thinking|reasoning)>", text)[-1]
    return rest if rest.strip() else text


def last_boxed(text: str) -> str | None:
    r"""What the last \boxed{} or \fbox{} with balanced braces holds (also `\boxed 7`), or None."""
    for mark in reversed(list(_BOX.finditer(text))):
        inside = mark["bare"] if mark["bare"] is not None else balanced(text, mark.end() - 1)
        if inside is not None:
            return inside
    return None


def boxes(text: str) -> list[tuple[int, int, str]]:
    """Start, end and inside of the last boxes with balanced braces."""
    found = []
    for mark in list(_BOX.finditer(text))[-MOST_BOXES:]:
        opening = mark.end() - 1
        inside = mark["bare"] if mark["bare"] is not None else balanced(text[: opening + LONGEST], opening)
        if inside is not None:
            end = mark.end() if mark["bare"] is not None else mark.end() + len(inside) + 1
            found.append((mark.start(), end, inside))
    return found


def boxed_answer(text: str) -> tuple[str, ...] | None:
    """The insides of the last boxes of a text: one, or all of a list; an open one to the end of its line."""
    found = []
    for box in boxes(text):
        if not found or box[0] >= found[-1][1]:
            found.append(box)
    if not found:
        opened = re.search(r"\\(?:boxed|fbox)\s*\{([^\n]*)", text)
        return (opened[1],) if opened else None
    pieces = [found[-1]]
    for box in reversed(found[:-1]):
        if not _JOINER.fullmatch(text, box[1], pieces[0][0]):
            break
        pieces.insert(0, box)
    return tuple(dict.fromkeys(inside for *_, inside in pieces))


def searched(response: str) -> str:
    """The part of a response that an answer is looked for in, in the one way of writing."""
    text = before_end(response)
    section = answer_section(text)
    return clean(after_thinking(text) if section is None else section)


def find(response: str) -> Found | None:
    """The final answer of a response in the one way of writing (symbols.clean), or None."""
    text = searched(response)
    pieces = boxed_answer(text)
    if pieces is not None:
        found = Found(pieces, BOXED)
    else:
        peeled = peel(text, in_list=True) if len(text) <= LONGEST else ""
        whole = bool(peeled) and not is_prose(peeled)
        found = Found((peeled,), WHOLE) if whole else in_prose(text)
    usable = found is not None and all(piece.strip() for piece in found.pieces) and len(found.text) <= LONGEST
    return found if usable else None


def in_prose(text: str) -> Found | None:
    """The answer of a text in sentences: after `####`, after the last statement of it, else the last sentence."""
    before, mark, rest = text.rpartition("####")
    if mark:
        line = rest.strip().partition("\n")[0][:LONGEST]
        if line and starts_as_answer(line):
            return Found((line,), HEADING)
        rest = rest.partition("\n")[2] if rest.partition("\n")[0].strip() else rest
        text = next((part for part in (rest, before.replace("####", ""), line) if part.strip()), "")
    for cue in reversed(list(_CUE.finditer(text))):
        stated = first_sentence(re.sub(r"^[*_]{1,3}(?=\s)", "", text[cue.end() :].lstrip(" \t")))
        if stated.strip(" \n*_") and not is_negated(stated.partition(",")[0]):
            return Found((_CLAUSE.sub("", stated),), STATEMENT)
    last = last_sentence(text)
    return Found((last,), SENTENCE) if last else None


def starts_as_answer(line: str) -> bool:
    """Whether a line after `####` is the answer and no heading: it is a number, formula or letter, with words after it."""
    plain = peel(_ITEM.sub("", line), in_list=True)
    number = re.match(rf"(?:\$|\\\(|[-+]|\s|[{CURRENCY}€£])*(?:{NUMBER}|\\[a-z]|\(|\{{|\\\{{)", plain)
    formula = re.match(r"[\s*_`]*(?:\$|\\[(\[])", line)
    return bool(number or formula) or not is_prose(plain)


def sentences(text: str) -> list[str]:
    """Sentences and lines of a text; formulas and code are never cut."""
    parts, start = [], 0
    for found in _PIECE.finditer(text):
        if found["end"] is not None:
            parts.append(text[start : found.start()])
            start = found.end()
    return [part.strip() for part in [*parts, text[start:]] if part.strip()]


def first_sentence(text: str) -> str:
    """The first sentence or line that is not empty."""
    return next(iter(sentences(text)), "")


def last_sentence(text: str) -> str:
    """The last sentence or line that is no heading, rule or fence."""
    return next((part for part in reversed(sentences(text)) if not _RULE_LINE.fullmatch(part)), "")
