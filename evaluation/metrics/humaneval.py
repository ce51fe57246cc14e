"""HumanEval and HumanEval+: prompt and program, run against the row's check function in the sandbox.

default: the first python block (of the <answer> section where there is one), else the text itself; it may be the whole
function or only its body, whose indentation is mended if that makes it readable.
published: the prompt followed by the first closed python block.
HumanEval+ rows differ only in their tests. The functions of the prompt that the tests use are the prompt's own.

    python evaluation/metrics/humaneval.py --res_path RESULTS --confirm_run_unsafe_code [--protocol published]
"""

import ast
import textwrap

from evaluation.metrics import sandbox
from evaluation.metrics.programs import parses, program_text, published_text
from evaluation.metrics.verdict import NO_ANSWER, Verdict, check_protocol


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


def judge(doc: dict, response: str, *, protocol: str = "default", confirm_run_unsafe_code: bool = False) -> Verdict:
    """Outcome of a response to a row of the data set (prompt, entry_point, test).

    Raises ValueError unless confirm_run_unsafe_code, SandboxError where nothing can be run.
    """
    check_protocol(protocol)
    sandbox.require_confirmation(confirm_run_unsafe_code)
    if protocol == "published":
        text = published_text(response, python_only=True)
        program = None if text is None else doc["prompt"] + "\n" + text
    else:
        text = program_text(response)
        program = None if text is None else build_program(doc, text)
    if program is None:
        return Verdict(NO_ANSWER, text, "no program found" if text is None else "no readable program found")
    name = doc["entry_point"]
    tests = f"{doc['test']}\ncheck({name})\n"
    job = sandbox.Job(program, tests, names=[name], required=[name], preamble=doc["prompt"])
    outcome, detail = sandbox.run(job)
    return Verdict(outcome, text, detail)


def score(doc: dict, response: str, *, protocol: str = "default", confirm_run_unsafe_code: bool = False) -> bool:
    """Whether the response passes all tests. Raises ValueError unless confirm_run_unsafe_code."""
    return judge(doc, response, protocol=protocol, confirm_run_unsafe_code=confirm_run_unsafe_code).right


if __name__ == "__main__":
    from evaluation.metrics.rescore import command

    command("humaneval", __doc__)
