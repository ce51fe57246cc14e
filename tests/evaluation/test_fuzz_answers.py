"""Whatever a model writes, scoring it gives a verdict."""

import signal
import string
from contextlib import contextmanager

import pytest

from evaluation.metrics import gsm8k, humaneval, math500, mbpp
from evaluation.metrics.programs import called_names, fallback, find_program
from evaluation.metrics.verdict import OUTCOMES

hypothesis = pytest.importorskip("hypothesis")
st = hypothesis.strategies

PIECES = [
    r"\boxed{",
    r"}",
    r"{",
    r"$",
    r"$$",
    r"\(",
    r"\)",
    r"\[",
    r"\]",
    r"\frac",
    r"\sqrt",
    r"(",
    r")",
    r"[",
    r"]",
    r",",
    r".",
    r"=",
    r"<",
    r">",
    r"\le",
    r"\in",
    r"\cup",
    r"\pm",
    r"^",
    r"_",
    r"**",
    r"`",
    r"```",
    r"-",
    r"####",
    r"answer",
    r"is:",
    r"<answer>",
    r"</answer>",
    r"\text{",
    r"\begin{pmatrix}",
    r"\end{pmatrix}",
    r"&",
    r"\\",
    r"%",
    r"\%",
    r"\$",
    r"°",
    r"½",
    r"²",
    r"√",
    r"∞",
    r"1",
    r"23",
    r"4,567",
    r"0.5",
    r"1e9",
    r"10^6",
    r"x",
    r"pi",
    r"and",
    r"or",
    r"not",
    r"52_8",
    r"ft^2",
    r"million",
    r"def",
    r"class",
    r"import",
    r"return",
    r"if",
    r"for",
    r"f",
    r"(x):",
    r"python",
    r"@",
    r'"""',
    r"'''",
    r"#",
    r"print(f(1))",
    r"lambda",
]
TEXTS = st.one_of(
    st.text(max_size=80),
    st.text(alphabet=string.printable, max_size=120),
    st.lists(st.sampled_from([*PIECES, "\n", " ", "    "]), max_size=25).map(" ".join),
    st.lists(st.sampled_from([*PIECES, "\n", "\n    "]), max_size=25).map("".join),
)
# What a model writes that commits many tokens at once: a few pieces over and over, words without blanks among them.
LOOPS = st.builds(
    lambda head, body, times, tail: head + "".join(body) * times + tail,
    st.sampled_from(["", "#### ", "#### 5 ", "The answer is "]),
    st.lists(st.sampled_from([*PIECES, "apples", "dog", " ", " 5", " x ", "-", "'"]), min_size=1, max_size=4),
    st.integers(2, 40),
    st.sampled_from(["", "!", '"', "5", " 5 ?"]),
)
ROW = {"prompt": 'def f(x):\n    """Doc."""\n', "entry_point": "f"}
fuzz = hypothesis.settings(max_examples=300, deadline=None, derandomize=True)


@fuzz
@hypothesis.given(TEXTS)
def test_gsm8k(text):
    assert gsm8k.judge({"answer": "#### 10"}, text).outcome in OUTCOMES


@contextmanager
def seconds(limit: float):
    """An error where a block takes longer, which a regular expression that tries every way never lets the block say."""

    def ring(*_):
        raise TimeoutError(f"more than {limit} s")

    previous = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, limit)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


@pytest.mark.parametrize(
    "text", ["#### 5 " + "apples" * 20 + "?", "#### " + "a" * 200 + '"5', "5 " + "two-a-day" * 20 + "!"]
)
def test_a_loop_of_words_is_scored_at_once(text):
    with seconds(5):
        assert gsm8k.judge({"answer": "#### 10"}, text).outcome in OUTCOMES


@fuzz
@hypothesis.given(LOOPS)
def test_loops_of_pieces(text):
    with seconds(5):
        assert gsm8k.judge({"answer": "#### 10"}, text).outcome in OUTCOMES


@fuzz
@hypothesis.given(TEXTS)
def test_math500(text):
    for gold in ("10", r"\text{even}", "(3,4]"):
        assert math500.judge({"answer": gold}, text).outcome in OUTCOMES


@fuzz
@hypothesis.given(TEXTS)
def test_programs(text):
    for program in (
        find_program(text, *called_names("assert f(3) == 4")),
        fallback(text),
        humaneval.build_program(ROW, text),
    ):
        assert program is None or isinstance(program, str)


@hypothesis.settings(max_examples=100, deadline=None, derandomize=True)
@hypothesis.given(TEXTS)
def test_tests_of_rows(text):
    row = {"test_list": [text], "test_setup_code": ""}
    try:
        called_names(mbpp.tests_of(row))
    except ValueError as error:
        assert "the row's tests are no Python" in str(error)
