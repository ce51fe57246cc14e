"""Finding the program in a model's text."""

import re
import warnings

from evaluation.metrics.answers import answer_section, before_end

# A program's doubtful escapes are no concern of the one who scores it.
warnings.filterwarnings("ignore", module="generated_program")

_BLOCK = re.compile(r"```[ \t]*(?P<language>[\w+.-]*)[^\n]*\n(?P<code>.*?)(?P<end>\n?[ \t]*```|\Z)", re.DOTALL)
PYTHON = ("python", "python3", "py")


def blocks(text: str) -> list[tuple[str, str, bool]]:
    """Fenced blocks as (language in lower case, code, whether the fence is closed)."""
    found = _BLOCK.finditer(text.replace("\r\n", "\n"))
    return [(block["language"].lower(), block["code"], bool(block["end"])) for block in found]


def program_text(response: str) -> str | None:
    """Default protocol: the first python block, else the first block, of the last <answer> section or else of the text.

    A block that is cut off counts to the end of the text; without any block the text itself is taken if it is not empty.
    """
    text = before_end(response)
    section = answer_section(text)
    text = text if section is None else section
    found = blocks(text)
    python = [code for language, code, _ in found if language in PYTHON] or [code for _, code, _ in found]
    return python[0] if python else text.replace("\r\n", "\n") if text.strip() else None


def published_text(response: str, python_only: bool) -> str | None:
    """Published protocol: the first closed block of the text, marked as python if python_only; None where there is none."""
    for language, code, closed in blocks(before_end(response)):
        if closed and (language in PYTHON or not python_only):
            return code
    return None


def parses(program: str) -> bool:
    """Whether Python can compile the program."""
    try:
        compile(program, "generated_program", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # ValueError: null bytes
        return False
    return True
