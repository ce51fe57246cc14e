"""MATH500's answers: what is equal, and what math-verify alone would call equal and is not."""

import threading

import pytest

from evaluation.metrics import math500, math_equality
from evaluation.metrics.verdict import Scoring
from tests.evaluation.test_answers import INPUTS, responses, samples

PUBLISHED = Scoring("published")
# One per line: what the answer is, the gold answer, the answer.
CASES = [tuple(line.split(" | ")) for line in (INPUTS / "mathematics.txt").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("shape", [r"\boxed{@}", "<answer>@</answer>", "The answer is $@$."])
def test_math500(shape):
    for outcome, gold, answer in CASES:
        right = math500.score({"problem": "", "answer": gold}, shape.replace("@", answer))
        assert right == (outcome == "right"), (gold, answer)


def test_whole_responses():
    for case in responses("math500"):
        assert math500.score({"problem": "", "answer": case["answer"]}, case["response"]) is case["right"], case


@pytest.mark.parametrize(
    "gold,answer,published",
    [
        (r"\frac{1}{2}", "0.5", "right"),
        (r"\frac{1}{2}", r"\dfrac12", "right"),
        (r"\frac{1}{2}", r"\frac{2}{4}", "wrong"),
        ("x=5", "5", "right"),
        ("p - q", "-q + p", "wrong"),
        ("52_8", "52", "wrong"),
        ("10,000", "10000", "right"),
        (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\frac\pi2)", "right"),
        ("5", "", "no_answer"),
    ],
)
def test_the_published_protocol_compares_strings(gold, answer, published):
    assert math500.judge({"answer": gold}, rf"<answer>\boxed{{{answer}}}</answer>", PUBLISHED).outcome == published


@pytest.mark.parametrize("name", ["F01_markdown_in_answer", "F02_newline_in_box", "F09_bases", "F11_unicode"])
def test_inputs_that_are_right(name):
    for doc, response in samples(f"math500_{name}"):
        assert math500.score(doc, response), response


def test_inputs_that_are_wrong():
    for doc, response in samples("math500_F10_false_positives"):
        assert math500.judge(doc, response).outcome == "wrong", response


def test_a_percent_sign_is_a_unit_where_percents_are_asked_for():
    asked, other = "By what percent does the area of the square decrease?", "How many marbles are in the box?"
    assert math500.score({"problem": asked, "answer": "10"}, r"\boxed{10\%}")
    assert not math500.score({"problem": other, "answer": "10"}, r"\boxed{10\%}")
    assert math500.score({"problem": other, "answer": r"\frac{1}{10}"}, r"\boxed{10\%}")


def test_several_boxes():
    assert math500.score({"answer": "1,-2"}, r"$x = \boxed{1}$ or $x = \boxed{-2}$")
    assert math500.score({"answer": r"\frac{639}{40}"}, r"$\boxed{15\frac{39}{40}},$ or $\boxed{\frac{639}{40}}$")
    assert not math500.score({"answer": "1"}, r"\boxed{1} or \boxed{2}")


def test_without_box():
    assert math500.judge({"answer": "5"}, "The answer is 5.").right
    assert math500.judge({"answer": "5"}, "<answer>$5$</answer>").right
    assert math500.judge({"answer": "5"}, "I do not know").outcome == "no_answer"
    assert math500.judge({"answer": "0"}, "The answer is not $0$.").outcome != "right"
    assert math500.judge({"answer": "5"}, "The answer is 5.", PUBLISHED).outcome == "no_answer"


@pytest.mark.slow
def test_an_answer_that_never_ends_is_stopped_and_the_next_one_scored():
    assert math500.judge({"answer": "5"}, r"\boxed{9^{9^{9^{9}}}+x}").outcome in ("timeout", "error", "wrong")
    assert math500.judge({"answer": r"\sqrt{8}"}, r"\boxed{2\sqrt{2}}").right


def test_mathematics_is_compared_from_any_thread():
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
