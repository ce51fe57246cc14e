"""HumanEval and HumanEval+: prompt and program, then the row's check function, run in the sandbox.

    prompt       def strlen(string: str) -> int:
                     ''' Return length of given string
                     >>> strlen('')
                     0
                     >>> strlen('abc')
                     3
                     '''
    entry_point  strlen
    test         def check(candidate):
                     assert candidate('') == 0
                     assert candidate('x') == 1
                     assert candidate('asdasnakj') == 9

Right: the whole function in a python block, and under the default protocol `return len(string)` alone.

default: the first python block (of the <answer> section where there is one), else the text itself; it may be the whole
function or only its body, whose indentation is mended if that makes it readable.
published: the prompt followed by the first closed python block.
HumanEval+ rows differ only in their tests.

    python -m evaluation.metrics.humaneval --res_path RUN --confirm_run_unsafe_code [--protocol published]
"""

import ast
import textwrap

from cd4lm.config import require
from cd4lm.data.rows import text_of
from evaluation.metrics import sandbox
from evaluation.metrics.programs import parses, program_text, published_text
from evaluation.metrics.verdict import DEFAULT, NO_ANSWER, Scoring, Verdict


def build_program(doc: dict, text: str) -> str | None:
    """The first readable reading of a text: it continues the prompt, as it stands or indented; None if none is."""
    body = textwrap.indent(textwrap.dedent(text), "    ")
    if parses(text) and not defines(text, doc["entry_point"]):
        readings = (body, text)  # statements without the function are its body, although Python can read them
    else:
        readings = (text, textwrap.dedent(text), body)
    return next((p for p in (doc["prompt"] + "\n" + reading for reading in readings) if parses(p)), None)


def defines(program: str, name: str) -> bool:
    """Whether a readable program binds name at its top level: a function, an assignment or an import."""
    return any(
        (isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and node.name == name)
        or (isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets))
        for node in ast.parse(program, "generated_program").body
    )


def judge(doc: dict, response: str, scoring: Scoring = DEFAULT) -> Verdict:
    """Outcome of a response to a row of the data set (prompt, entry_point, test).

    Raises ValueError unless scoring.confirm_run_unsafe_code, SandboxError where nothing can be run.
    """
    sandbox.check(scoring)
    if scoring.protocol == "published":
        text = published_text(response, python_only=True)
        program = None if text is None else doc["prompt"] + "\n" + text
    else:
        text = program_text(response)
        program = None if text is None else build_program(doc, text)
    if program is None:
        return Verdict(NO_ANSWER, text, "no program found" if text is None else "no readable program found")
    outcome, detail = sandbox.run(program, f"{doc['test']}\ncheck({doc['entry_point']})\n", scoring.sandbox)
    return Verdict(outcome, text, detail)


def score(
    doc: dict,
    response: str,
    *,
    protocol: str = "default",
    confirm_run_unsafe_code: bool = False,
    sandbox: str = "bubblewrap",
) -> bool:
    """Whether the response passes all tests. Raises ValueError as judge does."""
    return judge(doc, response, Scoring(protocol, confirm_run_unsafe_code, sandbox)).right


def check(doc: dict) -> None:
    """Raise ValueError for a row whose tests cannot be run."""
    for column in ("prompt", "entry_point", "test"):
        text_of(doc, column)
    name = doc["entry_point"]
    require(f"def {name}(" in doc["prompt"], f"has a prompt that does not begin the function {name!r} of entry_point")
    require(parses(doc["test"]), "has no readable Python in column 'test'")
    require(defines(doc["test"], "check"), "has no function check in column 'test'")


if __name__ == "__main__":
    from evaluation.metrics.rescore import command

    command("humaneval", __doc__)
