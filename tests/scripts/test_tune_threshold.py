"""Tuning the bundled teacher for real: what is chosen, written, and then used by the other command lines."""

import json
import shutil

import pytest

from cd4lm.data.rows import write_jsonl
from cd4lm.data.tiny_task import make_row
from cd4lm.decoding.options import DecodingOptions
from scripts import LLaDA_generate_dynamic, tune_threshold
from tests.conftest import ROOT

QUESTION = "tom has 7 apples . buys 3 . gives 2 . how many ?"


@pytest.fixture
def teacher(tmp_path):
    return shutil.copytree(ROOT / "checkpoints/tiny_teacher", tmp_path / "teacher")


@pytest.fixture
def data(tmp_path):
    (tmp_path / "data").mkdir()
    write_jsonl(tmp_path / "data/validation.jsonl", [make_row("validation", i, 42) for i in range(12)])
    write_jsonl(tmp_path / "data/test.jsonl", [make_row("test", i, 42) for i in range(2)])
    return tmp_path / "data"


@pytest.mark.slow
def test_cad_is_tuned_and_used_by_default(teacher, data, run_main):
    before = json.loads((teacher / "generation_config.json").read_text())
    words = ("--model_path", teacher, "--data", data, "--max_loss", 0.1, "--values", "0.05,0.6,0.9,0.99")
    said, printed = run_main(tune_threshold.main, *words)
    assert said is None and "chosen" in printed
    record = json.loads((teacher / "tuning.json").read_text())
    assert record["tried"][0]["value"] == 0.9 and len(record["tried"]) <= 3
    enough = [t for t in record["tried"] if t["accuracy"] >= record["baseline"]["accuracy"] - 0.1 - 1e-9]
    assert enough == [t for t in record["tried"] if t["enough"]]
    assert record["chosen"] == min(enough, key=lambda t: t["nfe"])["value"] != 0.05
    for trial in record["tried"]:
        assert trial["accuracy_95"][0] <= trial["accuracy"] <= trial["accuracy_95"][1] + 1e-9
        assert trial["nfe"] < record["baseline"]["nfe"] and 0 <= trial["p_against_baseline"] <= 1
    after = json.loads((teacher / "generation_config.json").read_text())
    assert after == before | {"policy": "cad", "confidence_threshold": record["chosen"]}

    ask = ("--model_path", teacher, "--prompt", QUESTION, "--json")
    by_default = json.loads(run_main(LLaDA_generate_dynamic.main, *ask)[1])
    by_hand = json.loads(run_main(LLaDA_generate_dynamic.main, *ask, "--confidence_threshold", record["chosen"])[1])
    assert by_default == by_hand


@pytest.mark.slow
def test_another_policy_becomes_the_default_and_what_cannot_be_reached_changes_nothing(teacher, data, run_main):
    words = ("--model_path", teacher, "--data", data, "--policy", "factor", "--max_samples", 8, "--search", "grid")
    before = (teacher / "generation_config.json").read_bytes()
    said, printed = run_main(tune_threshold.main, *words, "--accuracy", 1.0, "--use_lower_bound", "--values", "4,1")
    assert "no value of factor reaches it" in said and "too low" in printed  # 8 of 8 proves no more than 68 %
    assert (teacher / "generation_config.json").read_bytes() == before
    said, _ = run_main(tune_threshold.main, *words, "--accuracy", 0.5, "--values", "1", "--max_tokens_per_step", 4)
    assert said is None
    settings = DecodingOptions.stored(teacher)
    assert (settings.policy, settings.factor, settings.max_tokens_per_step) == ("factor", 1.0, 4)
    ask = ("--model_path", teacher, "--prompt", QUESTION, "--json")
    answer = json.loads(run_main(LLaDA_generate_dynamic.main, *ask)[1])
    assert max(answer["commits"]) <= 4
    forced = json.loads(run_main(LLaDA_generate_dynamic.main, *ask, "--factor", 1, "--max_tokens_per_step", 4)[1])
    assert answer == forced


def test_a_dry_run_leaves_the_checkpoint_alone(teacher, data, run_main, tmp_path):
    before = {file.name: file.read_bytes() for file in teacher.iterdir()}
    words = ("--data", data, "--accuracy", 0, "--values", "0.5", "--max_samples", 2, "--output", tmp_path / "t.json")
    said, _ = run_main(tune_threshold.main, "--model_path", teacher, "--dry_run", *words)
    assert said is None and json.loads((tmp_path / "t.json").read_text())["chosen"] == 0.5
    assert {file.name: file.read_bytes() for file in teacher.iterdir()} == before


@pytest.mark.parametrize(
    "words,message",
    [
        ((), "say what is wanted"),
        (("--accuracy", "0.9", "--max_loss", "0.1"), "say what is wanted"),
        (("--accuracy", "95"), "--accuracy 95.0 must lie in [0, 1]"),
        (("--accuracy", "0.9", "--policy", "factr"), "did you mean factor?"),
        (("--accuracy", "0.9", "--metric", "gsm9k"), "metric 'gsm9k' is unknown"),
        (("--accuracy", "0.9", "--values", "0.5,1.5"), "threshold=1.5"),
        (("--accuracy", "0.9", "--max_samples", "0"), "--max_samples must be positive"),
        (("--accuracy", "0.9", "--output", "/nowhere/t.json"), "/nowhere is not a folder"),
        (("--accuracy", "0.9", "--model_path", "GSAI-ML/LLaDA-8B-Instruct"), "is not a local folder"),
        (("--accuracy", "0.9", "--gen_length", "30"), "not a multiple of block_length"),
    ],
)
def test_bad_input(teacher, data, refused, words, message):
    refused(tune_threshold.main, message, "--model_path", teacher, "--data", data, *words)
    assert not (teacher / "tuning.json").exists()


def test_bad_rows(teacher, tmp_path, refused):
    base = ("--model_path", teacher, "--accuracy", "0.9", "--data", tmp_path / "rows.jsonl")
    for content, message in (
        (b'{"question": "how many ?"}', "row 1 has no text in column 'answer'"),
        (b"\xff\xfe\n", "rows.jsonl is not a UTF-8 text file"),
    ):
        (tmp_path / "rows.jsonl").write_bytes(content)
        refused(tune_threshold.main, message, *base)


def test_a_test_split_is_refused(teacher, data, refused):
    base = ("--model_path", teacher, "--accuracy", "0.9", "--data", data / "test.jsonl")
    refused(tune_threshold.main, "test.jsonl is a test split", *base)
