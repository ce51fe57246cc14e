"""Python statements in a text that also holds prose, fences and demonstrations, and the names they bind and use.

Python's own parser decides what is a statement: a line at the margin starts one, the following lines belong to it as long as
the parser wants more, and lines that it cannot read are prose.
"""

import ast
import builtins
import codeop
import re
import symtable
import threading
import warnings
from dataclasses import dataclass, field
from functools import cached_property

# A program's doubtful escapes are no concern of the one who scores it.
warnings.filterwarnings("ignore", module="generated_program")
warnings.filterwarnings("ignore", category=SyntaxWarning, module="codeop")

FENCE = re.compile(r"(?P<indent>[ \t]*)(?P<mark>`{3,}|~{3,})[ \t]*(?P<language>[\w+.#-]*)[^\n`]*")
_UNREADABLE = (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError)  # ValueError: null bytes
# Lines at the margin that go on with the statement above them.
_CONTINUES = re.compile(r"\s|#|$|(?:else|elif|except|finally|case)\b[^=]*:")
_LONGEST = 400  # lines of one statement
# Python 3.11 keeps the depth of the tree it builds once for all threads, and fails if another one starts in between.
_ONE_TREE = threading.Lock()
_OUTSIDE = {"print", "input", "exit", "quit", "breakpoint", "assert"}
# Calls at a program's top level that set something up rather than show something.
_SETUP = {"setrecursionlimit", "set_int_max_str_digits", "seed", "filterwarnings", "simplefilter", "setcontext"}


@dataclass(frozen=True)
class Statement:
    """A statement at the top level of a block: its source, tree, and the number of fences before it."""

    source: str
    node: ast.stmt
    block: int = field(compare=False, default=0)

    @cached_property
    def binds(self) -> frozenset[str]:
        """The global names it binds, deletes or may change: `memo[0] = 1`, `squares.append(4)`, `heapify(squares)`."""
        if isinstance(self.node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            return frozenset([self.node.name])
        names = set()
        for node in _at_top(self.node):
            if isinstance(node, ast.alias):
                names.add((node.asname or node.name).partition(".")[0])
            elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                names.add(node.name)
            elif isinstance(getattr(node, "ctx", None), (ast.Store, ast.Del)):
                names.add(_root(node))
            elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
                names |= {_root(part) for part in (node.value.func, *node.value.args) if _root(part)}
        return frozenset(names - {None})

    @cached_property
    def uses(self) -> frozenset[str]:
        """The global names it uses, inside functions too."""
        try:
            table = symtable.symtable(self.source, "generated_program", "exec")
        except _UNREADABLE:
            return frozenset()
        return frozenset(_global_names(table, top=True))

    @property
    def is_definition(self) -> bool:
        return isinstance(self.node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))

    @property
    def is_import(self) -> bool:
        return isinstance(self.node, (ast.Import, ast.ImportFrom))

    @property
    def is_setup(self) -> bool:
        """Whether it is a call such as sys.setrecursionlimit(10**6), or sets `getcontext().prec`."""
        node = self.node
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            called = node.value.func
            return getattr(called, "attr", getattr(called, "id", None)) in _SETUP
        return isinstance(node, ast.Assign) and "getcontext" in self.uses

    @property
    def is_stub(self) -> bool:
        """Whether it is a function without a body: a docstring, pass, ..., or raise NotImplementedError."""
        if not isinstance(self.node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            return False
        return all(_is_empty(statement) for statement in self.node.body)

    @property
    def talks(self) -> bool:
        """Whether it prints, reads input, asserts or ends the program, outside of functions."""
        if isinstance(self.node, (ast.Assert, ast.Raise)) or self.is_definition:
            return not self.is_definition
        names = {node.id for node in _at_top(self.node) if isinstance(node, ast.Name)}
        return bool(names & _OUTSIDE) or "__name__" in names


def _is_empty(node: ast.stmt) -> bool:
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant)
    return isinstance(node, ast.Pass) or (isinstance(node, ast.Raise) and "NotImplemented" in ast.unparse(node))


def _at_top(node: ast.AST):
    """A statement's nodes, without the insides of functions and classes."""
    yield node
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
        return
    for child in ast.iter_child_nodes(node):
        yield from _at_top(child)


def _root(node: ast.expr) -> str | None:
    """The name at the start of `name`, `name[0]`, `name.field`."""
    while isinstance(node, (ast.Attribute, ast.Subscript, ast.Starred)):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def _global_names(table: symtable.SymbolTable, top: bool):
    for symbol in table.get_symbols():
        if (symbol.is_referenced() or symbol.is_assigned()) and (
            symbol.is_global() or (top and symbol.is_referenced())
        ):
            yield symbol.get_name()
    for child in table.get_children():
        yield from _global_names(child, top=False)


def is_builtin(name: str) -> bool:
    return hasattr(builtins, name)


def parses(program: str) -> bool:
    """Whether Python can compile the program."""
    try:
        compile(program, "generated_program", "exec", dont_inherit=True)
    except _UNREADABLE:
        return False
    return True


def tree_of(source: str) -> list[ast.stmt] | None:
    """The statements of a source text; None if Python cannot read it."""
    try:
        with _ONE_TREE:
            return ast.parse(source, "generated_program").body
    except _UNREADABLE:
        return None


def _wants_more(source: str) -> bool:
    """Whether lines could be added to a source text so that Python can read it."""
    try:
        return codeop.compile_command(source, "generated_program", "exec") is None
    except _UNREADABLE:
        return False


def statements(text: str) -> list[Statement]:
    """All statements that stand at the margin of a text, each with the number of the block it is in."""
    lines, found, block, i = text.split("\n"), [], 0, 0
    while i < len(lines):
        if FENCE.fullmatch(lines[i]):
            block += 1
            i += 1
            continue
        end, nodes = _statement_at(lines, i)
        if nodes:
            source = "\n".join(lines[i:end])
            found += [Statement(_segment(source, node), node, block) for node in nodes]
        i = max(end, i + 1)
    return found


def _statement_at(lines: list[str], start: int) -> tuple[int, list[ast.stmt] | None]:
    """The end of the statement that starts at a line, and its nodes; None and the next line if none does."""
    if not lines[start].strip() or lines[start][0].isspace():
        return start + 1, None
    end = start
    while end < min(len(lines), start + _LONGEST):
        end += 1
        while end < len(lines) and _CONTINUES.match(lines[end]) and not FENCE.fullmatch(lines[end]):
            end += 1
        source = "\n".join(lines[start:end])
        nodes = tree_of(source)
        if nodes is not None:
            return end, nodes
        if not _wants_more(source):
            break
    return start + 1, None


def _segment(source: str, node: ast.stmt) -> str:
    """The source of one statement, with its decorators."""
    decorators = getattr(node, "decorator_list", None)
    if decorators:
        return "\n".join(source.split("\n")[decorators[0].lineno - 1 : node.end_lineno])
    return ast.get_source_segment(source, node)
