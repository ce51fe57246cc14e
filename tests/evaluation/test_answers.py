"""Answers and programs found in text as models write it."""

import threading

import pytest

from evaluation.metrics import gsm8k, humaneval, math500, math_equality, mbpp, scoring
from evaluation.metrics.answers import before_end, last_boxed
from evaluation.metrics.humaneval import build_program
from evaluation.metrics.programs import program_text, published_text
from evaluation.metrics.verdict import Scoring

PUBLISHED = Scoring("published")
TEN = {"answer": "5 + 5 = <<5+5=10>>10\n#### 10"}


@pytest.mark.parametrize(
    "response,outcome,published",
    [
        (r"<answer>\boxed{10}</answer>", "right", "right"),
        (r"first \boxed{9}, then \boxed{10}", "right", "right"),
        (r"\boxed{10.00}", "right", "right"),
        (r"\boxed{\$10}", "right", "right"),
        (r"\boxed{10 dollars}", "right", "no_answer"),
        (r"\boxed{x = \text{about } 10}", "right", "no_answer"),
        (r"\boxed{\frac{20}{2}}", "right", "no_answer"),
        (r"10 <answer>\boxed{}</answer>", "no_answer", "no_answer"),
        (r"<answer>\boxed{11}</answer> 10", "wrong", "wrong"),
        ("so #### 10\nThe end of 3 steps", "right", "no_answer"),
        ("#### $10.", "right", "no_answer"),
        ("it is 5 + 5 = 10.", "right", "no_answer"),
        ("it is 10-5", "wrong", "no_answer"),
        ("-10", "wrong", "no_answer"),
        ("110", "wrong", "no_answer"),
        ("ten", "no_answer", "no_answer"),
        ("", "no_answer", "no_answer"),
        (r"I am<|eot_id|>\boxed{10}", "no_answer", "no_answer"),
        (r"\boxed{10}<|endoftext|>\boxed{9}", "right", "right"),
        (r"\boxed{10", "right", "no_answer"),
    ],
)
def test_gsm8k(response, outcome, published):
    assert gsm8k.judge(TEN, response).outcome == outcome
    assert gsm8k.judge(TEN, response, PUBLISHED).outcome == published
    assert gsm8k.score(TEN, response) is (outcome == "right")


@pytest.mark.parametrize(
    "text,number",
    [
        ("1,234,567", "1234567"),
        ("-3.5", "-3.5"),
        ("1{,}000", "1000"),
        ("−7", "-7"),
        ("-$5", "-5"),
        ("0.50", "0.5"),
        ("1/4", "0.25"),
    ],
)
def test_numbers(text, number):
    assert gsm8k.score({"answer": f"#### {number}"}, rf"\boxed{{{text}}}")


def test_a_row_without_gold_answer_is_an_error():
    with pytest.raises(ValueError, match="no ####"):
        gsm8k.score({"answer": "10"}, "10")


def test_unknown_names():
    with pytest.raises(ValueError, match="protocol='publishd' is not one of default, published"):
        gsm8k.score(TEN, "10", protocol="publishd")
    with pytest.raises(ValueError, match="no metric for task 'gsm9k'"):
        scoring.judge("gsm9k", TEN, "10")
    with pytest.raises(ValueError, match="sandbox='bwrap' is not one of bubblewrap, none"):
        Scoring(sandbox="bwrap")
    with pytest.raises(ValueError, match="workers=0 must be at least 1"):
        Scoring(workers=0)


@pytest.mark.parametrize(
    "text,boxed",
    [
        (r"\boxed{a{b}c}", "a{b}c"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}"),
        (r"\boxed{1} and \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\fbox{3}", "3"),
        (r"\boxed 7$", "7"),
        (r"\boxed{1} and \boxed{2", "1"),
        ("none", None),
    ],
)
def test_last_boxed(text, boxed):
    assert last_boxed(text) == boxed


@pytest.mark.parametrize(
    "gold,answer,outcome,published",
    [
        (r"\frac{1}{2}", "0.5", "right", "right"),
        (r"\frac{1}{2}", r"\dfrac12", "right", "right"),
        (r"\frac{1}{2}", r"\frac{2}{4}", "right", "wrong"),
        (r"\frac{1}{2}", "1/3", "wrong", "wrong"),
        ("x=5", "5", "right", "right"),
        ("90^\\circ", "90", "right", "right"),
        ("p - q", "-q + p", "right", "wrong"),
        ("p - q", "q - p", "wrong", "wrong"),
        (r"\text{Evelyn}", "Evelyn", "right", "right"),
        (r"\text{Evelyn}", "Navin", "wrong", "wrong"),
        ("(3,4]", "[3,4)", "wrong", "wrong"),
        ("52_8", "52", "right", "wrong"),
        ("52_8", "52_9", "wrong", "wrong"),
        ("10,000", "10000", "right", "right"),
        (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\frac\pi2)", "right", "right"),
    ],
)
def test_math500(gold, answer, outcome, published):
    doc, response = {"answer": gold}, rf"<answer>\boxed{{{answer}}}</answer>"
    assert math500.judge(doc, response).outcome == outcome
    assert math500.judge(doc, response, PUBLISHED).outcome == published


def test_math500_without_box():
    assert math500.judge({"answer": "5"}, "The answer is 5.").right
    assert math500.judge({"answer": "5"}, "<answer>$5$</answer>").right
    assert math500.judge({"answer": "5"}, "I do not know").outcome == "no_answer"
    assert math500.judge({"answer": "5"}, "The answer is 5.", PUBLISHED).outcome == "no_answer"


@pytest.mark.slow
def test_an_answer_that_never_ends_is_stopped_and_the_next_one_scored():
    assert math500.judge({"answer": "5"}, r"\boxed{9^{9^{9^{9}}}+x}").outcome in ("timeout", "error", "wrong")
    assert math500.judge({"answer": r"\frac{1}{2}"}, r"\boxed{\frac{2}{4}}").right


def test_math_is_compared_from_any_thread():
    right = []
    threads = [
        threading.Thread(target=lambda i=i: right.append(math500.score({"answer": f"{i}x"}, rf"\boxed{{x \cdot {i}}}")))
        for i in range(2, 8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert right == [True] * 6


def test_missing_math_verify_says_what_to_do(monkeypatch):
    monkeypatch.setattr(math_equality.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(math_equality, "WORKER", math_equality.Worker())
    with pytest.raises(ValueError, match="pip install"):
        math500.score({"answer": "x"}, r"\boxed{\frac{2x}{2}}")
    assert math500.score({"answer": "1"}, r"\boxed{1}", protocol="published")


def test_programs_are_found():
    code = "def f():\n    return 1"
    assert program_text(f"Here:\n```python\n{code}\n```\n```python\nother\n```") == code
    assert program_text(f"```\nshell\n```\n```py\n{code}\n```") == code
    assert program_text(f"```python\n{code}") == code
    assert program_text(f"```python\nold\n```<answer>```python\n{code}\n```</answer>") == code
    assert program_text(f"```python\r\n{code}\r\n```") == code
    assert program_text(code + "<|endoftext|>rest") == code
    assert program_text(" \n") is None
    assert published_text(f"```python\n{code}", python_only=True) is None
    assert published_text("```\nx\n```", python_only=False) == "x"
    assert published_text("```\nx\n```", python_only=True) is None


def test_a_body_continues_the_prompt():
    doc = {"prompt": 'def f(x):\n    """Doc."""\n', "entry_point": "f"}
    for text in ("    return x", "return x", "y = x\nreturn y", "  return x", "def f(x):\n    return x"):
        space = {}
        exec(build_program(doc, text), space)
        assert space["f"](3) == 3, text
    assert build_program(doc, "This is no program.") is None


@pytest.mark.parametrize("metric", [humaneval, mbpp])
def test_code_runs_only_with_consent(metric):
    with pytest.raises(ValueError, match="--confirm_run_unsafe_code"):
        metric.score({}, "```python\nx = 1\n```")


def test_before_end():
    assert before_end("a<|eot_id|>b<|endoftext|>c") == "a" and before_end("a") == "a"
