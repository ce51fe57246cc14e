"""The demo's trace of real runs of the bundled teacher, and bad input to the generating command lines."""

import argparse
import io
import json
import re
import shutil
from dataclasses import replace

import pytest
from rich.console import Console

import inference_demo
from cd4lm.decoding.command_line import Answerer
from cd4lm.decoding.options import DecodingOptions
from cd4lm.decoding.panel import AnswerPanel, pieces
from scripts import LLaDA_generate, LLaDA_generate_dynamic
from tests.byte_checkpoint import build
from tests.conftest import ROOT

TEACHER = ROOT / "checkpoints/tiny_teacher"
BASE = ("--model_path", TEACHER, "--prompt", "tom has 7 apples . buys 3 . gives 2 . how many ?")


def runs_of(page: str) -> list[dict]:
    return json.loads(re.search(r'id="trace">(.*?)</script>', page, re.S)[1])["runs"]


@pytest.mark.parametrize(
    "words,titles",
    [
        (("--entropy_bound", "0.2"), ["entropy_bounded, entropy_bound=0.2"]),
        (("--steps", "40", "--compare_threshold", "0.6"), ["fixed, steps=40", "cad, confidence_threshold=0.6"]),
        (("--factor", "1", "--compare_steps", "20"), ["factor, factor=1", "fixed, steps=20"]),
        (("--compare_model_path", "checkpoints/../checkpoints/tiny_teacher"), None),
    ],
)
def test_trace(tmp_path, run_main, words, titles):
    said, printed = run_main(inference_demo.main, *BASE, *words, "--trace", tmp_path / "trace.html")
    assert said is None and "trace.html" in printed
    runs = runs_of((tmp_path / "trace.html").read_text())
    if titles is None:  # two checkpoints: they are what differs
        assert runs[0]["title"] == "checkpoints/tiny_teacher" and runs[1]["title"] == words[1]
        assert runs[0]["tokens"] == runs[1]["tokens"]
    else:
        assert [run["title"] for run in runs] == titles
    for run in runs:
        text = " ".join(token["text"].strip() for token in run["tokens"][: run["length"]])
        assert text in printed
        assert f"{run['nfe']} NFE · {run['length']} tokens" in printed
        steps = [token["step"] for token in run["tokens"] if token["step"] >= 0]
        assert set(steps) == set(range(run["nfe"]))
    assert [file.name for file in tmp_path.iterdir()] == ["trace.html"]


@pytest.mark.parametrize(
    "text",
    [
        "ratio 1:100:2",
        "test:runner:1 :smile:",
        "[bold]x[/bold] [red]",
        "a " * 300,
        "def f():\n\treturn 1\r\n",
        "\x1b[1m\a\n\n",
    ],
)
def test_the_answer_is_printed_as_it_is(capsys, text):
    """No emoji, markup or broken lines, whatever the model writes; the answer is put in the model's mouth."""
    answerer = Answerer(TEACHER, DecodingOptions())
    (real,) = answerer.answers([answerer.encode(BASE[-1])])
    panel = AnswerPanel(answerer, Console(), pace=0, show_steps=False)
    panel.close(replace(real, text=text))
    assert capsys.readouterr().out.startswith(f"{text}\n{real.nfe} NFE")


def drawn(width: int, height: int, **options) -> tuple:
    """The frames of an answer on a terminal of this size, the Generation, and all that was written to the terminal."""
    answerer = Answerer(TEACHER, DecodingOptions(**options))
    console = Console(file=io.StringIO(), force_terminal=True, width=width, height=height, record=True)
    frames, panel = [], AnswerPanel(answerer, console, pace=0, show_steps=False)
    framed = panel.framed
    panel.framed = lambda text, counts: frames.append(f"{text.plain}\n{counts}") or framed(text, counts)
    with panel:
        (g,) = answerer.answers([answerer.encode(BASE[-1])], on_step=panel.on_step)
        panel.close(g)
    return frames, g, console.file.getvalue()


def test_on_a_terminal_the_answer_forms_in_one_panel():
    frames, g, written = drawn(100, 30)
    assert len(frames) == g.nfe + 1
    masks = [frame.partition(" NFE")[0].count("·") for frame in frames]
    assert masks[0] > masks[len(masks) // 2] > 0 and masks[-1] == 0
    assert g.text in " ".join(frames[-1].split()) and f"{g.nfe} NFE · {len(g.tokens)} tokens" in frames[-1]
    ups = re.findall(r"\x1b\[1A", written)
    assert len(ups) >= 2 * g.nfe  # each frame is drawn over the one before
    assert written.count("tiny_teacher") == len(frames) + 1  # leaving draws the last once more


def test_a_panel_is_never_taller_than_the_terminal():
    frames, g, _ = drawn(20, 6)
    assert all(frame.count("\n") <= 6 - 4 for frame in frames[:-1])
    assert g.text.split() == frames[-1].rpartition("\n")[0].split()


def test_the_pieces_of_a_text_are_the_text(tmp_path):
    """Characters of several bytes and spaces, whatever is masked around them."""
    tokenizer = Answerer(build(tmp_path / "model"), DecodingOptions()).tokenizer
    tokens = tokenizer("naïve 日本 two  spaces", add_special_tokens=False)["input_ids"]
    nothing = [False] * len(tokens)
    assert "".join(pieces(tokenizer.decode, tokens, nothing)) == tokenizer.decode(tokens)
    masked = [i % 7 == 3 for i in range(len(tokens))]
    found = pieces(tokenizer.decode, tokens, masked)
    assert [piece is None for piece in found] == masked
    words = Answerer(TEACHER, DecodingOptions()).tokenizer
    ids = words("7 + 3 = 10", add_special_tokens=False)["input_ids"]
    assert pieces(words.decode, ids, [False, True, False, False, True]) == ["7", None, " 3", " =", None]


MIA = "mia has 3 bags of 4 coins . loses 2 . how many ?"


class TestSession:
    """Questions from standard input, one a line."""

    @pytest.fixture
    def ask(self, run_main, monkeypatch):
        def call(lines: str, *words) -> tuple[str | None, str]:
            monkeypatch.setattr("sys.stdin", io.StringIO(lines))
            return run_main(inference_demo.main, "--model_path", TEACHER, *words)

        return call

    def test_one_answer_after_another(self, ask):
        said, printed = ask(f"\n{MIA}\nexit\n{MIA}\n")
        assert said is None and printed.count(" NFE ") == 2 and "#### 12" in printed and "#### 10" in printed

    def test_further_questions_after_a_prompt(self, ask):
        said, printed = ask(f"{MIA}\n", "--prompt", BASE[-1], "--chat")
        assert said is None and printed.index("#### 8") < printed.index("#### 10")

    def test_a_question_that_cannot_be_decoded(self, ask):
        said, _ = ask("tom has 7 zebras\n")
        assert "does not know the words zebras" in said

    @pytest.mark.parametrize("words", [("--turns", "-1"), ("--pace", "99"), ("--pace", "nan")])
    def test_bad_options(self, ask, words):
        said, _ = ask("", *words)
        assert said.startswith(f"error: {words[0]} ")

    def test_earlier_turns_that_fit(self, tmp_path):
        """A model whose template has turns sees them, the oldest left out where the canvas has no room."""
        answerer = Answerer(build(tmp_path / "model"), DecodingOptions(gen_length=32, block_length=32))
        assert answerer.has_turns and not Answerer(TEACHER, DecodingOptions()).has_turns
        arguments = argparse.Namespace(pace=0, show_steps=False, turns=None)
        conversation = inference_demo.Conversation(answerer, Console(), arguments)
        alone = conversation.encode("and then ?").tolist()
        conversation.messages = [
            {"role": role, "content": text} for text in ("one", "two") for role in ("user", "assistant")
        ]
        text = answerer.tokenizer.decode(conversation.encode("and then ?").tolist())
        assert text.index("one") < text.index("two") < text.index("and then ?")
        conversation.messages[0]["content"] = "x" * 10**4
        text = answerer.tokenizer.decode(conversation.encode("and then ?").tolist())
        assert "xxx" not in text and "two" in text
        conversation.turns = 0
        assert conversation.encode("and then ?").tolist() == alone


def test_generators_print_every_character(run_main, tmp_path):
    """JSON too holds the text and not its escapes."""
    folder = build(tmp_path / "model")
    words = ("--model_path", folder, "--prompt", "naïve 日本 :smile: [bold]")
    _, plain = run_main(LLaDA_generate_dynamic.main, *words)
    _, record = run_main(LLaDA_generate_dynamic.main, *words, "--json")
    assert "naïve 日本" in record and plain.startswith(json.loads(record)["answer"])


@pytest.mark.parametrize(
    "words,message",
    [
        (
            ("--steps", "8", "--confidence_threshold", "0.9"),
            "steps and confidence_threshold belong to different policies",
        ),
        (("--confidence_threshold", "1.5"), "threshold=1.5"),
        (("--steps", "7"), "steps=7 must be a multiple of the 2 blocks"),
        (("--policy", "cda"), "policy='cda' is unknown: did you mean cad?"),
        (("--policy", "factor", "--entropy_bound", "1"), "entropy_bound belongs to policy entropy_bounded"),
        (("--trace", "/nowhere/trace.html"), "/nowhere is not a folder: make it or choose another"),
        (("--trace", "tests"), "--trace tests is a folder: name a file in it"),
        (("--trace", "LICENSE/trace.html"), "LICENSE is not a folder"),
        (("--compare_steps", "4"), "--compare_... needs --trace FILE"),
        (("--trace", "t.html", "--compare_steps", "4", "--compare_threshold", "0.9"), "not both"),
        (("--trace", "t.html", "--compare_threshold", "1.5"), "threshold=1.5"),
        (("--trace", "t.html", "--compare_steps", "7"), "steps=7 must be a multiple"),
        (("--trace", "t.html", "--compare_model_path", "/nowhere/x"), "/nowhere/x does not exist"),
    ],
)
def test_bad_input_to_the_demo(refused, words, message):
    refused(inference_demo.main, message, *BASE, *words)
    assert not (ROOT / "t.html").exists()


@pytest.mark.parametrize(
    "main,words,message",
    [
        (LLaDA_generate_dynamic.main, ("--policy", "budgte"), "did you mean budget?"),
        (LLaDA_generate_dynamic.main, ("--factor", "0"), "factor=0.0 must be a number above 0"),
        (
            LLaDA_generate_dynamic.main,
            ("--factor", "1", "--confidence_threshold", "0.9"),
            "belong to different policies",
        ),
        (
            LLaDA_generate_dynamic.main,
            ("--tokens_per_step", "2", "--max_tokens_per_step", "4"),
            "does not apply to policy",
        ),
        (LLaDA_generate.main, ("--steps", "7"), "steps=7 must be a multiple"),
        (LLaDA_generate_dynamic.main, ("--gen_length", "0"), "gen_length=0 and block_length=20 must be at least 1"),
        (LLaDA_generate_dynamic.main, ("--block_length", "0"), "block_length=0 must be at least 1"),
        (LLaDA_generate_dynamic.main, ("--temperature", "nan"), "temperature=nan"),
        (LLaDA_generate_dynamic.main, ("--cfg_scale", "inf"), "cfg_scale=inf"),
    ],
)
def test_bad_input_to_the_generators(refused, main, words, message):
    refused(main, message, *BASE, *words)


def test_a_damaged_config_is_named_before_the_tokenizer(refused, tmp_path):
    shutil.copytree(TEACHER, tmp_path / "teacher")
    (tmp_path / "teacher/config.json").write_text("{broken")
    refused(LLaDA_generate_dynamic.main, "config.json cannot be used", *BASE, "--model_path", tmp_path / "teacher")


def test_no_question_and_nobody_to_ask(refused, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    refused(inference_demo.main, "no question was given: pass --prompt", "--model_path", TEACHER)
