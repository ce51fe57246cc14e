r"""Finding the program in a model's text: what defines the functions that the tests call, and what those need.

    Here is a first idea:           (prose: Python cannot read it)
    ```python
    def f(x): pass                  (a stub)
    ```
    ```python
    import math
    def half(x): return x / 2
    def f(x): return half(math.floor(x))
    print(f(int(input())))          (a demonstration: nothing needs it)
    ```

gives the import, half and f. So whatever a demonstration or a test does after the solution, it changes nothing.
"""

import ast
import re
import textwrap
from collections.abc import Iterable

from evaluation.metrics.answers import after_thinking, answer_section, before_end
from evaluation.metrics.statements import FENCE, Statement, is_builtin, parses, statements, tree_of

_BLOCK = re.compile(r"```[ \t]*(?P<language>[\w+.-]*)[^\n]*\n(?P<code>.*?)(?P<end>\n?[ \t]*```|\Z)", re.DOTALL)
PYTHON = ("python", "python3", "py")
_REFLECTION = {"eval", "exec", "globals", "locals", "vars", "__import__"}


def blocks(text: str) -> list[tuple[str, str, bool]]:
    """Fenced blocks as (language in lower case, code, whether the fence is closed)."""
    found = _BLOCK.finditer(text.replace("\r\n", "\n"))
    return [(block["language"].lower(), block["code"], bool(block["end"])) for block in found]


def published_text(response: str, python_only: bool) -> str | None:
    """Published protocol: the first closed block of the text, marked as python if python_only; None where there is none."""
    for language, code, closed in blocks(before_end(response)):
        if closed and (language in PYTHON or not python_only):
            return code
    return None


def texts(response: str) -> list[str]:
    """Where to look for a program, in this order: the last <answer> section, what follows the reasoning, the whole text."""
    text = before_end(response).replace("\r\n", "\n").replace("\r", "\n").replace("\ufeff", "")
    parts = [answer_section(text) or "", after_thinking(text), text]
    return list(dict.fromkeys(part for part in parts if part.strip()))


def find_program(response: str, entries: Iterable[str], needed: Iterable[str] = ()) -> str | None:
    """The program that defines all the entry points, with what they and the other needed names need; or None."""
    entries = set(entries)
    for text in texts(response):
        for reading in (text, unindented(text)):
            program = program_of(statements(reading), entries, entries | set(needed))
            if program is not None:
                return program
    return None


def unindented(text: str) -> str:
    """A text whose blocks start at the margin: fenced ones as their fence is indented, others as their first definition."""
    lines, indent, inside = [], "", False
    definition = re.search(r"^([ \t]+)(?:def|class|import|from|async|@)\b", text, re.MULTILINE)
    for line in text.split("\n"):
        fence = FENCE.fullmatch(line)
        if fence and not (inside and len(fence["indent"]) > len(indent)):  # deeper ones are in a docstring
            indent, inside = fence["indent"], bool(fence["language"]) or not inside
        lines.append(line.removeprefix(indent))
    text = "\n".join(lines)
    if any(FENCE.fullmatch(line) for line in lines) and re.search(r"^(?:def|class|async|@)", text, re.MULTILINE):
        return text
    return "\n".join(line.removeprefix(definition[1]) for line in lines) if definition else text


def program_of(found: list[Statement], entries: set[str], needed: set[str]) -> str | None:
    """The statements that the needed names need, in their order, as a program; None if an entry point is not defined."""
    definers = {
        n: [s for s in found if n in s.binds and not s.talks and is_allowed(s, n, entries, found)] for n in entries
    }
    if not all(definers.values()) or not entries:
        return None
    home = {}  # per entry point, the block of its first definition that is no stub
    for name, own in definers.items():
        home[name] = next((s for s in own if not s.is_stub), own[0]).block
    keep = needed_by(found, needed, entries, home)
    ordered = sorted(keep, key=lambda i: (not is_future(found[i]), i))
    return "\n".join(found[i].source for i in ordered) + "\n"


def is_future(statement: Statement) -> bool:
    return isinstance(statement.node, ast.ImportFrom) and statement.node.module == "__future__"


def needed_by(found: list[Statement], names: set[str], entries: set[str], home: dict[str, int]) -> set[int]:
    """Numbers of the statements that bind or set up the names, what those use, and so on."""
    blocks_of_entries = set(home.values())
    keep = {i for i, s in enumerate(found) if s.is_import and is_star_or_future(s)}
    keep |= {i for i, s in enumerate(found) if s.is_setup and s.block in blocks_of_entries}
    todo, done = set(names), set()
    for i in keep:
        todo |= found[i].uses
    while todo:
        name = todo.pop()
        done.add(name)
        if name in _REFLECTION and not any(name in s.binds for s in found):
            before = max(i for i, s in enumerate(found) if s.block in blocks_of_entries and s.binds & entries)
            near = [i for i, s in enumerate(found[:before]) if s.block in blocks_of_entries]
            new = {i for i in near if found[i].is_definition or found[i].is_import}
        else:
            new = set(binders(found, name, entries, home, blocks_of_entries))
        for i in new - keep:
            todo |= {used for used in found[i].uses if used not in done}
        keep |= new
    return keep


def is_star_or_future(statement: Statement) -> bool:
    return is_future(statement) or any(alias.name == "*" for alias in getattr(statement.node, "names", ()))


def binders(found: list[Statement], name: str, entries: set[str], home: dict[str, int], near: set[int]) -> list[int]:
    """Numbers of the statements that bind or change a name: those of the entry points' block, else of the nearest before it.

    A name of Python's own is only bound anew where the program itself does so beside the entry point.
    """
    own = [i for i, s in enumerate(found) if name in s.binds and not s.talks and is_allowed(s, name, entries, found)]
    if name in home:
        own = [i for i in own if found[i].block == home[name]]
        real = [i for i in own if not found[i].is_stub]
        return real or own
    here = [i for i in own if found[i].block in near]
    if here or not own or is_builtin(name):
        return here
    before = [i for i in own if found[i].block < min(near)]
    block = found[before[-1]].block if before else found[own[0]].block
    return [i for i in own if found[i].block == block]


def is_allowed(statement: Statement, name: str, entries: set[str], found: list[Statement]) -> bool:
    """Whether a statement may set a name up: a definition may, a use of the entry point (`result = f(3)`) may not."""
    if statement.is_definition or statement.is_import:
        return True
    if name in entries:
        return not isinstance(statement.node, ast.Expr)
    return not statement.uses & users(found, entries)


def users(found: list[Statement], names: set[str]) -> set[str]:
    """The names and the functions that call them, directly or not."""
    names, before = set(names), None
    while names != before:
        before = set(names)
        names |= {name for s in found if s.is_definition and s.uses & names for name in s.binds}
    return names


def continuation(prompt: str, entry: str, response: str) -> str | None:
    """The program of a response that holds only the body of the prompt's function, its indentation mended; or None."""
    for text in texts(response):
        pieces = [
            piece for piece in body_pieces(text) if not re.search(rf"^\s*def {re.escape(entry)}\b", piece, re.MULTILINE)
        ]
        programs = [p for p in (read_body(prompt, entry, piece) for piece in pieces) if p is not None]
        returning = [p for p in programs if re.search(r"\b(?:return|yield|lambda)\b", p[len(prompt) :])]
        if returning or programs:
            return (returning or programs)[0]
    return None


def body_pieces(text: str) -> list[str]:
    """The blocks of a text, or all of it where there are none."""
    pieces, lines = [], []
    for line in [*text.split("\n"), "```"]:
        if FENCE.fullmatch(line):
            pieces.append("\n".join(lines))
            lines = []
        else:
            lines.append(line)
    inside = pieces[1:] if len(pieces) > 2 else pieces
    return [piece for piece in inside if piece.strip()]


def read_body(prompt: str, entry: str, piece: str) -> str | None:
    """Prompt and body as a program, by the first reading of the body's indentation that Python accepts."""
    piece = re.sub(r"\A(?:[ \t]*\n)+", "", piece).rstrip()
    first, _, rest = piece.partition("\n")
    aligned = textwrap.dedent(rest)
    readings = (
        piece,
        textwrap.indent(textwrap.dedent(piece), "    "),
        textwrap.indent(f"{first.strip()}\n{aligned}", "    "),
        f"    {first.strip()}\n{rest}",
    )
    for dropped in range(60):  # lines of prose that may follow
        for reading in readings:
            lines = reading.split("\n")
            if dropped < len(lines) and re.match(r"[ \t]", reading):
                program = "\n".join([prompt, *lines[: len(lines) - dropped], ""])
                if parses(program) and has_body(program, entry):
                    needed = program_of(statements(program), {entry}, {entry})
                    return f"{prompt}\n{needed}" if needed else program  # the prompt's other functions stay
    return None


def has_body(program: str, entry: str) -> bool:
    """Whether a readable program's function has more than a docstring."""
    own = [s for s in statements(program) if entry in s.binds]
    return bool(own) and not own[-1].is_stub


def fallback(response: str) -> str | None:
    """The text to run where nothing defines the entry points: the first python block, else the first block, else all."""
    for text in texts(response):
        found = blocks(text)
        chosen = [code for language, code, _ in found if language in PYTHON] or [code for _, code, _ in found] or [text]
        if parses(chosen[0]) and chosen[0].strip():
            return chosen[0]
    return None


def called_names(tests: str) -> tuple[set[str], set[str]]:
    """The functions that tests call and do not define, and all global names they use. Raises ValueError if unreadable."""
    tree = tree_of(tests)
    if tree is None:
        raise ValueError(f"the row's tests are no Python: {tests[:80]!r}")
    own = statements(tests)
    bound = {name for s in own for name in s.binds}
    used = {name for s in own for name in s.uses} - bound
    calls = {
        n.func.id for n in ast.walk(ast.Module(tree, [])) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
    }
    own_names = {name for name in used if not is_builtin(name)}
    return calls & own_names or calls - bound, own_names  # one row asks for a function named sum
