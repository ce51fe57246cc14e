r"""What people put around an answer, one rule each, taken off one after the other: `- **\( 42 \).**` becomes `42`."""

import re
from typing import NamedTuple

from evaluation.metrics.braces import whole_group


class Wrapper(NamedTuple):
    """A wrapper: its name, an example whose inside is 42, and a pattern of the whole text whose group x is the inside."""

    name: str
    example: str
    pattern: str


_LEAD = r"(?:so|thus|hence|therefore|then|finally|and|now|we have|we get|we find|this gives|it follows that|that is)"
_NOUN = r"(?:answer|result|solutions?|value|total|sum|number|roots?|option|choice|output|response)"
_VERB = r"(?:is|are|equals?|was|were|be|becomes|gives?|yields?|makes?|costs?|takes?|totals?|has|have|needs?|as|to)"
# Words before a verb or colon: no digit, no command, no negation; `x` and `f(x)` may stand among them.
_WORDS = (
    r"(?:(?!(?:not|never|n't|isn't|cannot|nor|neither|except)\b)[A-Za-z][A-Za-z'’-]*(?:\([A-Za-z]\))?,?[ \t]+){0,24}?"
)

WRAPPERS = (
    Wrapper("display mathematics", r"\[ 42 \]", r"\\\[(?P<x>(?:(?!\\\]).)*)\\\]"),
    Wrapper("inline mathematics", r"\( 42 \)", r"\\\((?P<x>(?:(?!\\\)).)*)\\\)"),
    Wrapper("display with dollars", "$$42$$", r"\$\$(?P<x>[^$]*)\$\$"),
    Wrapper("inline with dollars", "$42$", r"\$(?P<x>[^$]*)\$"),
    Wrapper(
        "environment",
        r"\begin{align*} 42 \end{align*}",
        r"\\begin\{(equation|align|gather|displaymath|math|aligned|split|multline|center)(\*?)\}(?P<x>.*)\\end\{\1\2\}",
    ),
    Wrapper("fenced code", "```\n42\n```", r"(`{3,}|~{3,})[^\n`]*\n(?P<x>.*?)\n?\s*\1"),
    Wrapper("code", "`42`", r"(`+)(?P<x>[^`]+)\1"),
    Wrapper("bold", "**42**", r"(\*\*\*|\*\*|\*)(?!\*)(?P<x>(?:(?!\1).)+)\1"),
    Wrapper("bold with underscores", "__42__", r"(__|_)(?!_)(?P<x>[^_]+)\1"),
    Wrapper("quotation marks", '"42"', r"([\"'])(?P<x>(?:(?!\1).)+)\1"),
    Wrapper("tag", "<final>42</final>", r"<(\w+)>(?P<x>.*)</\1>"),
    Wrapper("tag in brackets", "[ANSWER]42[/ANSWER]", r"\[(\w+)\](?P<x>.*)\[/\1\]"),
    Wrapper("box marks", "<|begin_of_box|>42<|end_of_box|>", r"<\|begin_of_box\|>(?P<x>.*)<\|end_of_box\|>"),
    Wrapper("heading", "### 42", r"#{1,6}[ \t]*(?P<x>.*)"),
    Wrapper("quotation", "> 42", r">[ \t]+(?P<x>.*)"),
    Wrapper("list mark", "* 42", r"[*+][ \t]+(?P<x>.*)"),
    Wrapper("full stop", "42.", r"(?P<x>.*[^.\s])\s*(?:[.,;:]|(?<=[A-Za-z]{2})!|(?<=[*$])!)"),
    Wrapper("alignment mark", "& 42", r"&\s*(?P<x>.*)"),
    Wrapper("JSON", '{"answer": "42"}', r"\{?\s*\"[\w ]+\"\s*:\s*(?P<x>[^,{}]*)\}?"),
    Wrapper("equals sign", "= 42", r"(?:=|\\approx(?![A-Za-z]))\s*(?P<x>.*)"),
    Wrapper("line break", r"42 \\", r"(?P<x>.*[^\\])\\\\"),
    Wrapper("lead", "Therefore, 42", rf"(?i:{_LEAD})\b[\s,:]*(?P<x>.*)"),
    Wrapper("label", "Answer: 42", rf"[*_`]*(?i:{_WORDS}{_NOUN})[ \t]*[*_`\"']*\s*[:=][*_`\"']*\s*(?P<x>.*)"),
    Wrapper("sentence", "The area of it is 42", rf"(?i:{_WORDS}(?:{_VERB}|:))[:\s]\s*(?:equal to\s+)?(?P<x>.*?)(?:(?<=\d)!)?"),
    Wrapper("text", r"\text{42}", r"\\text\s*\{(?P<x>[^{}]*)\}"),
    Wrapper("label in text", r"\text{The answer is: } 42", r"\\text\s*\{[^{}]*(?:[:=]|\b(?i:is|are))\s*\}\s*(?P<x>.+)"),
    Wrapper("sign of consequence", r"\therefore 42", r"\\(?:therefore|implies|to|Rightarrow|boxed)(?![A-Za-z{])\s*(?P<x>.*)"),
)  # fmt: skip
_COMPILED = [(wrapper.name, re.compile(wrapper.pattern, re.DOTALL)) for wrapper in WRAPPERS]
_NEGATED = re.compile(r"\b(?:not|never|isn't|aren't|cannot|neither|nor)\b", re.IGNORECASE)
_WITHIN = re.compile(r"\$+|\\[()\[\]]|\*\*|`+|\\text\s*\{\s*\}")
_ITEM_MARK = re.compile(r"(?:-|\d{1,2}[.)])[ \t]+(?P<x>\S.*)", re.DOTALL)


def without_marks(text: str) -> str:
    """A text without the delimiters of mathematics and emphasis that stand around parts of it: `$12$ dollars`."""
    return " ".join(_WITHIN.sub(" ", text).split())


def is_negated(text: str) -> bool:
    """Whether a text denies something."""
    return bool(_NEGATED.search(text))


def peel(text: str, in_list: bool = False) -> str:
    """A text without its wrappers. in_list: whether `- 42` and `1. 42` can be items of a list (outside a box)."""
    text, before = text.strip(), None
    while text != before:
        before = text
        item = _ITEM_MARK.fullmatch(text) if in_list else None
        text = (item["x"] if item else text).strip()
        text = (whole_group(text, r"\boxed") or whole_group(text, r"\fbox") or whole_group(text, "") or text).strip()
        for name, pattern in _COMPILED:
            found = pattern.fullmatch(text)
            inside = found["x"].strip() if found else ""
            if inside and not (name.startswith(("sentence", "label")) and _NEGATED.search(text)):
                text = inside
                break
    return text
