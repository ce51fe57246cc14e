"""MBPP and MBPP+: the program, run against the row's tests in the sandbox.

default: the first python block, else the first block (of the <answer> section where there is one), else the text itself.
published: the first closed block.
Rows of MBPP have three asserts in `test_list`, after `test_setup_code` (or `test_imports`); rows of MBPP+ have more in `test`.
The published test split is task_id 11 to 510.

    python evaluation/metrics/mbpp.py --res_path RESULTS --confirm_run_unsafe_code [--protocol published]
"""

import builtins

from evaluation.metrics import sandbox
from evaluation.metrics.programs import defined_names, free_names, parses, program_text, published_text
from evaluation.metrics.verdict import NO_ANSWER, Verdict, check_protocol

TEST_IDS = range(11, 511)


def tests_of(doc: dict) -> str:
    """All tests of a row as one program."""
    setup = [doc["test_setup_code"]] if "test_setup_code" in doc else list(doc["test_imports"])
    tests = [doc["test"]] if "test" in doc else list(doc["test_list"])
    return "\n".join(setup + tests).replace("\r\n", "\n") + "\n"


def names_for(doc: dict, tests: str) -> list[str]:
    """What the tests take from the program; a builtin only where the row's own solution replaces it."""
    own = defined_names(doc["code"].replace("\r\n", "\n"))
    return sorted(name for name in free_names(tests) if name in own or name not in vars(builtins))


def judge(doc: dict, response: str, *, protocol: str = "default", confirm_run_unsafe_code: bool = False) -> Verdict:
    """Outcome of a response to a row of the data set (code, test_list or test).

    Raises ValueError unless confirm_run_unsafe_code, SandboxError where nothing can be run.
    """
    check_protocol(protocol)
    sandbox.require_confirmation(confirm_run_unsafe_code)
    text = program_text(response) if protocol == "default" else published_text(response, python_only=False)
    if text is None or (protocol == "default" and not parses(text)):
        return Verdict(NO_ANSWER, text, "no program found" if text is None else "no readable program found")
    tests = tests_of(doc)
    outcome, detail = sandbox.run(sandbox.Job(text, tests, names_for(doc, tests)))
    return Verdict(outcome, text, detail)


def score(doc: dict, response: str, *, protocol: str = "default", confirm_run_unsafe_code: bool = False) -> bool:
    """Whether the response passes all tests. Raises ValueError unless confirm_run_unsafe_code."""
    return judge(doc, response, protocol=protocol, confirm_run_unsafe_code=confirm_run_unsafe_code).right


if __name__ == "__main__":
    from evaluation.metrics.rescore import command

    command("mbpp", __doc__)
