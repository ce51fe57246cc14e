"""Programs found in text as models write it."""

import gc
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from evaluation.metrics import humaneval, mbpp
from evaluation.metrics.humaneval import build_program
from evaluation.metrics.programs import called_names, find_program, published_text
from evaluation.metrics.statements import tree_of
from evaluation.metrics.verdict import Scoring
from tests.evaluation.test_answers import INPUTS, samples

CONSENT = Scoring(confirm_run_unsafe_code=True)
CODE = "def f():\n    return 1"
SUCCESSOR = {
    "prompt": 'from typing import List\n\n\ndef f(x: int, memo={}) -> int:\n    """Doc.\n    ```\n    f(1)\n    ```\n    """\n',
    "entry_point": "f",
    "test": "def check(c):\n    assert c(3) == 4\n    assert c(0) == 1\n",
}
SHAPES = (INPUTS / "programs.txt").read_text().split("=====\n")


@pytest.mark.parametrize("response", SHAPES, ids=range(len(SHAPES)))
def test_shapes_of_right_programs(response):
    verdict = humaneval.judge(SUCCESSOR, response.strip("\n"), CONSENT)
    assert verdict.right, verdict


def test_inputs_of_humaneval():
    for doc, response in samples("humaneval_F03_code_blocks"):
        assert humaneval.score(doc, response, confirm_run_unsafe_code=True), response


def test_inputs_of_mbpp():
    """The same blocks, without those that are only a body."""
    for _, response in samples("humaneval_F03_code_blocks")[:12]:
        row = {"test_list": ["assert truncate_number(3.5) == 0.5"], "test_setup_code": ""}
        assert mbpp.score(row, response, confirm_run_unsafe_code=True), response


@pytest.mark.parametrize(
    "response,outcome",
    [("", "no_answer"), ("```python\n```", "no_answer"), ("def f(:", "no_answer"), ("x = 1", "error")],
)
def test_what_is_no_solution(response, outcome):
    row = {"test_list": ["assert f(3) == 4"], "test_setup_code": ""}
    assert mbpp.judge(row, response, CONSENT).outcome == outcome
    assert not humaneval.judge(SUCCESSOR, response, CONSENT).right


def test_the_block_that_defines_the_entry_point():
    def found(response):
        return (find_program(response, ["f"]) or "").strip()

    assert found(f"Here:\n```python\n{CODE}\n```\n```python\nother\n```") == CODE
    assert found(f"```\nshell\n```\n```py\n{CODE}\n```") == CODE
    assert found(f"```python\n{CODE}") == CODE
    assert found(f"```python\ndef f(): return 2\n```<answer>```python\n{CODE}\n```</answer>") == CODE
    assert found(f"```python\r\n{CODE}\r\n```".replace("\n    ", "\r\n    ")) == CODE
    assert found(CODE + "<|endoftext|>rest") == CODE
    assert found(" \n") == ""


def test_only_what_the_entry_point_needs_is_kept():
    text = "import os\nimport re\nA = 1\nB = f(A)\ndef g(): return re\ndef h(): return os\ndef f(): return g(), A\nprint(f())"
    assert find_program(text, ["f"]) == "import re\nA = 1\ndef g(): return re\ndef f(): return g(), A\n"


def test_published_blocks():
    assert published_text(f"```python\n{CODE}", python_only=True) is None
    assert published_text("```\nx\n```", python_only=False) == "x"
    assert published_text("```\nx\n```", python_only=True) is None


def test_a_body_continues_the_prompt():
    doc = {"prompt": 'def f(x):\n    """Doc."""\n', "entry_point": "f"}
    for text in ("    return x", "return x", "y = x\nreturn y", "  return x", "def f(x):\n    return x"):
        space = {}
        exec(build_program(doc, text), space)
        assert space["f"](3) == 3, text
    assert build_program(doc, "This is no program.") is None


def test_the_names_that_tests_call():
    assert called_names("root = Node(1)\nassert depth(root) == len([1])\n")[0] == {"Node", "depth"}
    assert called_names("assert sum(10, 15) == 6")[0] == {"sum"}


@pytest.mark.parametrize("value", ["Decimal(9)", "Fraction(18, 2)", "9.0", "True * 9"])
def test_values_compare_as_in_python(value):
    row = {"test_list": ["assert f() == 9", "assert g() == [0, 1]", "assert h() == {1}"], "test_setup_code": ""}
    code = f"from decimal import Decimal\nfrom fractions import Fraction\ndef f(): return {value}\n"
    code += "class L(list): pass\ndef g(): return L(range(2))\ndef h(): return {1: 2}.keys()\n"
    assert mbpp.judge(row, code, CONSENT).right


@pytest.mark.parametrize("metric", [humaneval, mbpp])
def test_code_runs_only_with_consent(metric):
    with pytest.raises(ValueError, match="--confirm_run_unsafe_code"):
        metric.score({}, "```python\nx = 1\n```")


def test_threads_that_read_programs_do_not_disturb_each_other():
    """Python 3.11 raises SystemError where one thread begins a tree while another one, held up by a collection, builds its own."""
    tests = "\n".join(f"assert f({i}) == [[(1.5, -{i}.0, (2, [3, {{'a': [1, 2]}}]))] * 3]" for i in range(3))
    interval, thresholds = sys.getswitchinterval(), gc.get_threshold()

    def let_others_run(*_):
        time.sleep(0)

    sys.setswitchinterval(1e-6)
    gc.set_threshold(20, 10**6, 10**6)
    gc.callbacks.append(let_others_run)
    try:
        with ThreadPoolExecutor(8) as pool:
            assert {len(tree) for tree in pool.map(tree_of, [tests] * 2000)} == {3}
    finally:
        gc.callbacks.remove(let_others_run)
        gc.set_threshold(*thresholds)
        sys.setswitchinterval(interval)
