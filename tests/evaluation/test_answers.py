"""Answers found in text as models write it, and GSM8K's numbers."""

import json

import pytest

from evaluation.metrics import gsm8k, scoring
from evaluation.metrics.answers import before_end, find, last_boxed
from evaluation.metrics.quantities import value
from evaluation.metrics.symbols import clean
from evaluation.metrics.units import split_unit
from evaluation.metrics.verdict import Scoring
from evaluation.metrics.wrappers import WRAPPERS, peel
from tests.conftest import ROOT

INPUTS = ROOT / "tests/fixtures/inputs"
PUBLISHED = Scoring("published")
TEN = {"answer": "5 + 5 = <<5+5=10>>10\n#### 10"}


def samples(name: str) -> list[tuple[dict, str]]:
    """Rows and responses of a file in tests/fixtures/inputs."""
    lines = [json.loads(line) for line in (INPUTS / f"samples_{name}.jsonl").read_text().splitlines()]
    return [(line["doc"], line["response"]) for line in lines]


def responses(task: str) -> list[dict]:
    """Gold answers with responses, and whether those are right."""
    lines = (INPUTS / f"responses_{task}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


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
    "response",
    [
        "**Answer:** 10",
        "**Final Answer**\n\n10 apples",
        "The answer is **10**, since 5+5 = 10 and 3 more.",
        "She pays $5 and $5, which is $10 in total.",
        "The answer is\n\\[\n10\n\\]",
        r"The answer is: $\$10.00$",
        r"<think>\boxed{9}</think> It is 10.",
        "She earns 5 * 2 = $10 per hour (10 dollars).",
        "1. She has 4.\n2. She has 10.\n3. Done",
        "Answer: Janet has 10 apples in 2 boxes",
        r"\boxed{10\text{ miles}/\text{hour}}",
        r"$$\text{Total} = 5 + 5 = 10$$",
        "### Answer\n10",
        "10 ft²",
        "- 10",
        r"\boxed{10}, that is \boxed{10}",
    ],
)
def test_gsm8k_right(response):
    assert gsm8k.score(TEN, response)


@pytest.mark.parametrize(
    "response",
    [
        "The answer is not 10.",
        "The answer is not 10 but 20.",
        r"\boxed{10 or 12}",
        r"\boxed{10}, \boxed{12}",
        r"\boxed{2 hours 10 minutes}",
        r"\boxed{x^2+10}",
        r"\boxed{10x}",
        r"\boxed{10:30}",
        r"\boxed{10!}",
        r"\boxed{10^2}",
        r"\boxed{5^{10}}",
        r"\boxed{5 \text{ m}^{10}}",
        "The profit is -$10",
        "The profit is $-10.",
        "10 - 10",
        "<answer>10 eggs and 3 ducks</answer>",
        "She has 10,5 of them",
        r"\boxed{10,00}",
    ],
)
def test_gsm8k_gives_no_credit_for_a_number_nearby(response):
    assert not gsm8k.score(TEN, response)


def test_inputs_of_gsm8k():
    pairs = [*samples("gsm8k_F04_exponents"), *samples("gsm8k_F06_headings")]
    right = [gsm8k.score(*pair) for pair in pairs]
    assert right == [doc["answer"] != "#### 2" for doc, _ in pairs]  # 120 ft^2 is not 2


def test_whole_responses():
    for case in responses("gsm8k"):
        assert gsm8k.score({"answer": case["answer"]}, case["response"]) is case["right"], case


@pytest.mark.parametrize("wrapper", WRAPPERS, ids=lambda wrapper: wrapper.name)
def test_wrappers(wrapper):
    assert peel(wrapper.example) == "42"


@pytest.mark.parametrize(
    "text,number",
    [
        ("1,234,567", "1234567"),
        ("12,34,567", "1234567"),
        ("1 234 567", "1234567"),
        ("1.234.567", "1234567"),
        ("1'234", "1234"),
        ("-3.5", "-3.5"),
        ("1{,}000", "1000"),
        (r"1,\!000", "1000"),
        ("−7", "-7"),
        ("-$5", "-5"),
        ("0.50", "0.5"),
        ("1/4", "0.25"),
        ("½", "0.5"),
        ("1½", "1.5"),
        (r"137 \frac{1}{2}", "137.5"),
        ("1 1/2", "1.5"),
        (r"\frac14", "0.25"),
        (r"1.5 \times 10^6", "1500000"),
        ("1.5e6", "1500000"),
        ("10^6", "1000000"),
        ("3 × 10⁻²", "0.03"),
        ("1.5 million", "1500000"),
        ("٣٤", "34"),
        ("１２", "12"),
        ("४२", "42"),
        (r"120 \text{ ft}^2", "120"),
        ("15cm^2", "15"),
        ("5 square feet", "5"),
        (r"20\%", "20"),
        (r"90^\circ", "90"),
        ("£5", "5"),
    ],
)
def test_numbers(text, number):
    assert gsm8k.score({"answer": f"#### {number}"}, rf"\boxed{{{text}}}")


@pytest.mark.parametrize(
    "text", ["1,23", "1,2345", "2 3", "1e99999", "9^9^9^9", "1/0", "2k", "x", "", "--", "(", r"5\frac{3}{2}"]
)
def test_what_is_no_number(text):
    assert value(text) is None


@pytest.mark.parametrize(
    "text,unit",
    [
        ("120 ft^2", "ft^2"),
        (r"864 \mbox{ inches}^2", "in^2"),
        ("5 square feet", "ft^2"),
        (r"\$5", "dollar"),
        (r"5.4 \text{ cents}", "cent"),
        ("2k", None),
        ("3 or so", None),
    ],
)
def test_units(text, unit):
    assert split_unit(clean(text))[1] == unit


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
    "text,pieces",
    [
        (r"$x = \boxed{1}$ or $x = \boxed{-2}$", ("1", "-2")),
        (r"\boxed{1}, \boxed{2} and \boxed{3}", ("1", "2", "3")),
        (r"not \boxed{1}. It is \boxed{2}", ("2",)),
        (r"\boxed{\boxed{5}}", (r"\boxed{5}",)),
        (r"\boxed{5} so $\boxed{5}$", ("5",)),
    ],
)
def test_boxes_that_are_a_list(text, pieces):
    assert find(text).pieces == pieces


def test_before_end():
    assert before_end("a<|eot_id|>b<|endoftext|>c") == "a" and before_end("a") == "a"
