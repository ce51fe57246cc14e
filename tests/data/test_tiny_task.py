"""The embedded task: right answers, disjoint splits, several modes, and a tokenizer that fits it."""

import hashlib
import random
import re

import pytest
from transformers import AutoTokenizer

from cd4lm.data import tiny_task
from cd4lm.data.tiny_task import WORDINGS, World, draw_problem, make_row, split_of, vocabulary

WORLDS = [World(), World(chain=(6, 7, 8)), World(wordings=4, chain=(4, 5, 6)), World(wordings=1, chain=(4, 5, 6))]


@pytest.mark.parametrize("world", WORLDS)
def test_answers_are_right_step_by_step(world):
    for i in range(500):
        row = make_row("train", i, world=world)
        start, *steps = re.findall(r"(\d+|[+\-*]\d+)", row["key"])
        value = int(start)
        assert len(steps) in world.chain
        for step in steps:
            value = tiny_task.apply(value, step[0], int(step[1:]))
            assert 0 <= value <= tiny_task.MAX_VALUE
        assert row["answer"].endswith(f"#### {value}")
        for a, op, b, c in re.findall(r"(\d+) ([+\-*]) (\d+) = (\d+)", row["answer"]):
            assert tiny_task.apply(int(a), op, int(b)) == int(c)


@pytest.mark.parametrize("world", WORLDS)
def test_splits_share_no_arithmetic(world):
    keys = {
        split: {make_row(split, i, world=world)["key"] for i in range(2000)}
        for split in ("train", "validation", "test")
    }
    assert not keys["train"] & keys["test"] and not keys["train"] & keys["validation"]
    assert not keys["validation"] & keys["test"]
    assert min(len(k) for k in keys.values()) > 500


def test_rows_never_change():
    """The rows that the bundled teacher learnt from and that published results were measured on."""
    text = "\n".join(row["question"] + row["answer"] for row in (make_row("test", i) for i in range(20)))
    assert hashlib.sha256(text.encode()).hexdigest()[:12] == "0352fb5e1cb4"
    row = make_row("test", 0)
    assert row == make_row("test", 0) != make_row("test", 1)
    assert make_row("test", 0, seed=1) != row


def test_every_wording_is_used_about_equally():
    rng = random.Random(0)
    problem = next(p for p in iter(lambda: draw_problem(rng), None) if len(p.steps) == 4)
    firsts = [tiny_task.word_answer(problem, "tom", "apples", rng).split()[0] for _ in range(4000)]
    for word in ("we", "so", "now", "then", "count", "tom"):
        assert 0.09 < firsts.count(word) / 4000 < 0.16
    assert len(WORDINGS) == 8


@pytest.mark.parametrize("wordings", [1, 2, 4, 8])
def test_wordings_change_the_answers_alone(wordings):
    world, full = World(wordings, (4, 5, 6)), World(chain=(4, 5, 6))
    rows = [(make_row("train", i, 3, world), make_row("train", i, 3, full)) for i in range(300)]
    assert all(row["question"] == other["question"] and row["key"] == other["key"] for row, other in rows)
    assert {tiny_task.final_number(row["answer"]) == tiny_task.final_number(o["answer"]) for row, o in rows} == {True}
    lengths = [len(row["answer"].split()) for row, _ in rows]
    assert min(lengths) >= 4 * 6 + 2 and max(lengths) <= 6 * 9 + 2


def test_one_wording_leaves_a_question_one_answer():
    problem, world = draw_problem(random.Random(2), World(chain=(6,))), World(wordings=1)
    answers = {tiny_task.word_answer(problem, "tom", "cups", random.Random(i), world.wordings) for i in range(50)}
    assert len(answers) == 1
    assert len({tiny_task.word_answer(problem, "tom", "cups", random.Random(i), 2) for i in range(50)}) > 10


def test_split_is_by_the_arithmetic_alone():
    rng = random.Random(1)
    shares = [split_of(draw_problem(rng)) for _ in range(5000)]
    assert 0.75 < shares.count("train") / 5000 < 0.85


def test_tokenizer_knows_every_word_and_survives_saving(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    for i in range(200):
        row = make_row("train", i)
        for text in (row["question"], row["answer"]):
            ids = loaded(text, add_special_tokens=False)["input_ids"]
            assert loaded.unk_token_id not in ids
            assert loaded.decode(ids) == text
            assert len(ids) == len(text.split())
    assert len(set(vocabulary())) == len(vocabulary())


def test_chat_template_is_lladas(tokenizer):
    messages = [{"role": "user", "content": "tom has 2 apples"}]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert text == (
        "<|startoftext|><|start_header_id|>user<|end_header_id|>\n\ntom has 2 apples<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    assert len(tokenizer(text, add_special_tokens=False)["input_ids"]) == 14
