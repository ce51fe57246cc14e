"""MBPP and MBPP+: the program, then the row's tests, run in the sandbox.

    text       Write a python function to remove first and last occurrence of a given character from the string.
    code       def remove_Occ(s,ch): ...
    test_list  assert remove_Occ("hello","l") == "heo"
               assert remove_Occ("abcda","a") == "bcd"
               assert remove_Occ("PHP","P") == "H"

Right: a function remove_Occ, in a block or (default protocol) as the whole text, for which all asserts hold.

default: the first definitions of the functions that the tests call which are no stubs, and what they need
(evaluation/metrics/programs.py); where nothing defines them, the first block or the text itself, which then fails.
published: the first closed block.
Rows of MBPP have three asserts in `test_list`, after `test_setup_code` (or `test_imports`); rows of MBPP+ have more in `test`.
The published test split is task_id 11 to 510.

    python -m evaluation.metrics.mbpp --res_path RUN --confirm_run_unsafe_code [--protocol published]
"""

from cd4lm.config import require
from cd4lm.data.rows import shown, text_of
from evaluation.metrics import sandbox
from evaluation.metrics.programs import called_names, fallback, find_program, published_text
from evaluation.metrics.statements import parses
from evaluation.metrics.verdict import DEFAULT, NO_ANSWER, Scoring, Verdict

TEST_IDS = range(11, 511)


def tests_of(doc: dict) -> str:
    """All tests of a row as one program."""
    setup = [doc["test_setup_code"]] if "test_setup_code" in doc else list(doc["test_imports"])
    tests = [doc["test"]] if "test" in doc else list(doc["test_list"])
    return "\n".join(setup + tests).replace("\r\n", "\n") + "\n"


def judge(doc: dict, response: str, scoring: Scoring = DEFAULT) -> Verdict:
    """Outcome of a response to a row of the data set (code, test_list or test).

    Raises ValueError unless scoring.confirm_run_unsafe_code, SandboxError where nothing can be run.
    """
    sandbox.check(scoring)
    if scoring.protocol == "published":
        text = published_text(response, python_only=False)
    else:
        text = find_program(response, *called_names(tests_of(doc))) or fallback(response)
    if text is None:
        return Verdict(NO_ANSWER, detail="no program found")
    outcome, detail = sandbox.run(text, tests_of(doc), scoring.sandbox)
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
    if "test" in doc:
        text_of(doc, "test")
    tests = doc.get("test_list")
    texts = isinstance(tests, list) and bool(tests) and all(isinstance(test, str) and test.strip() for test in tests)
    require(texts, f"has no list of tests in column 'test_list' but {shown(tests)}")
    setup = doc.get("test_setup_code", doc.get("test_imports"))
    known = isinstance(setup, str if "test_setup_code" in doc else list)
    require(known, f"has no text in column 'test_setup_code' and no list in 'test_imports' but {shown(setup)}")
    require(parses(tests_of(doc)), "has tests that are no readable Python")


if __name__ == "__main__":
    from evaluation.metrics.rescore import command

    command("mbpp", __doc__)
