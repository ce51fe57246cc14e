"""The demo's trace of real runs of the bundled teacher, and bad input to the generating command lines."""

import io
import json
import re
import shutil
from dataclasses import replace

import pytest

import inference_demo
from cd4lm.decoding.command_line import Answerer
from cd4lm.decoding.options import DecodingOptions
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
        assert runs[0]["title"] == str(TEACHER) and runs[1]["title"] == words[1]
        assert runs[0]["tokens"] == runs[1]["tokens"]
    else:
        assert [run["title"] for run in runs] == titles
    for run in runs:
        text = " ".join(token["text"].strip() for token in run["tokens"][: run["length"]])
        assert text in printed
        assert f"{run['nfe']} NFE for {run['length']} tokens" in printed
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
    answerer.answers = lambda prompts, on_step: [replace(real, text=text)]
    inference_demo.run(answerer, BASE[-1], inference_demo.console())
    printed = capsys.readouterr().out
    assert f"\n{text}\n{real.nfe} NFE" in printed and printed.endswith(f"{real.result.commits[0]}\n")


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
