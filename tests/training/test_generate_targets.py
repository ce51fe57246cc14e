"""The teacher's own answers do not depend on how many processes answer, and a folder says how they were decoded."""

import json
from dataclasses import replace

import pytest

from cd4lm.data.tiny_task import make_row
from cd4lm.decoding import DecodingOptions
from cd4lm.model.loading import load_for_inference
from cd4lm.settings import DataConfig
from cd4lm.training.generate_targets import own_answers
from scripts.run_experiment import check_data
from tests.conftest import ROOT

TEACHER = ROOT / "checkpoints/tiny_teacher"


def test_two_parts_are_the_whole():
    """Also with sampled tokens, which are drawn from a row's place among all."""
    teacher, tokenizer = load_for_inference(TEACHER)
    rows = [make_row("train", i) for i in range(6)]
    decoder = DecodingOptions(temperature=1.0, gen_length=40, block_length=20).for_checkpoint(TEACHER)
    how = {"batch_size": 4, "is_right": None}
    whole = own_answers(teacher, tokenizer, rows, decoder, **how)
    parts = [own_answers(teacher, tokenizer, rows[i : i + 3], decoder, first=i, **how) for i in (0, 3)]
    assert parts[0] + parts[1] == whole
    assert parts[0] + own_answers(teacher, tokenizer, rows[3:], decoder, **how) != whole


@pytest.mark.parametrize("stored", [None, "none", "dual"])
def test_data_decoded_with_another_cache_is_refused(tmp_path, stored):
    """A folder without a word of it was decoded without a cache."""
    cache = {} if stored is None else {"cache": stored}
    manifest = {"dataset": "gsm8k", "answers": "teacher", "own_answers": {"keep": "all"} | cache}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    data = DataConfig(dataset="gsm8k", dir=str(tmp_path), answers="teacher", answers_cache=stored or "none")
    assert check_data(data)
    with pytest.raises(ValueError, match="answers_cache=.*, not prefix: delete it"):
        check_data(replace(data, answers_cache="prefix"))
