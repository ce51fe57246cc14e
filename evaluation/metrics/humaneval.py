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

default: the prompt, the first definition of the entry point that is no stub, and what it needs (evaluation/metrics/
programs.py); a text without one is read as the function's body, its indentation mended.
published: the prompt followed by the first closed python block.
HumanEval+ rows differ only in their tests.

    python -m evaluation.metrics.humaneval --res_path RUN --confirm_run_unsafe_code [--protocol published]
"""

from cd4lm.config import require
from cd4lm.data.rows import text_of
from evaluation.metrics import sandbox
from evaluation.metrics.programs import continuation, find_program, published_text
from evaluation.metrics.statements import parses, statements
from evaluation.metrics.verdict import DEFAULT, NO_ANSWER, Scoring, Verdict


def build_program(doc: dict, response: str) -> str | None:
    """The prompt with the program of a response, or with its body; None if there is neither."""
    entry, prompt = doc["entry_point"], doc["prompt"]
    program = find_program(response, [entry], [entry])
    if program is None or is_stub(program, entry):
        return continuation(prompt, entry, response) or (program and prompt + "\n" + program)
    whole = prompt + "\n" + program
    return whole if parses(whole) else program  # from __future__ must come first


def is_stub(program: str, entry: str) -> bool:
    """Whether the entry point is only declared."""
    return all(s.is_stub for s in statements(program) if entry in s.binds)


def judge(doc: dict, response: str, scoring: Scoring = DEFAULT) -> Verdict:
    """Outcome of a response to a row of the data set (prompt, entry_point, test).

    Raises ValueError unless scoring.confirm_run_unsafe_code, SandboxError where nothing can be run.
    """
    sandbox.check(scoring)
    if scoring.protocol == "published":
        text = published_text(response, python_only=True)
        program = None if text is None else doc["prompt"] + "\n" + text
    else:
        text = program = build_program(doc, response)
    if program is None:
        return Verdict(NO_ANSWER, detail="no program found")
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
    defined = any("check" in statement.binds for statement in statements(doc["test"]))
    require(defined, "has no function check in column 'test'")


if __name__ == "__main__":
    from evaluation.metrics.rescore import command

    command("humaneval", __doc__)
