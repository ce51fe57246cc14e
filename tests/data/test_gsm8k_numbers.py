"""GSM8K's questions with new numbers: exact answers, disjoint splits, sensible numbers, and a tokenizer that gives them back."""

import hashlib
import json
import math
import random
import re
import shutil
from collections import Counter
from fractions import Fraction

import pytest

import inference_demo
from cd4lm.config import ConfigError, build, load
from cd4lm.data import gsm8k_numbers
from cd4lm.data.arithmetic import Expression, NotArithmetic
from cd4lm.data.gsm8k_numbers import (
    SPLITS,
    SUMS,
    NumbersWorld,
    build_tokenizer,
    fixed_pieces,
    make_row,
    make_sums,
    one_result_of,
    pool,
    pool_of,
    read_templates,
    results_of,
)
from cd4lm.data.gsm8k_question import Question
from cd4lm.data.gsm8k_templates import Unusable, original_check, template_of
from cd4lm.data.number_words import article_of
from cd4lm.data.rows import read_jsonl, write_jsonl
from cd4lm.decoding.command_line import Answerer
from cd4lm.decoding.options import DecodingOptions
from cd4lm.io import weights_fingerprint
from cd4lm.model.tokenizer import JsonTokenizer
from cd4lm.settings import ExperimentConfig
from cd4lm.training.pretrain import FreshProblems, PretrainConfig, pretrain
from evaluation.metrics import gsm8k
from scripts import held_out, prepare_data
from scripts.run_experiment import check_experiment
from tests.conftest import ROOT

SMALL = NumbersWorld(templates=400, largest=99, steps=(2, 3))
# The first row of GSM8K's training file.
NATALIA = {
    "question": "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. How many clips "
    "did Natalia sell altogether in April and May?",
    "answer": "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\n"
    "Natalia sold 48+24 = <<48+24=72>>72 clips altogether in April and May.\n#### 72",
}
# Arithmetic that nothing but words stands before on its line, up to a whole result.
EQUATION = re.compile(
    r"^(?:[A-Za-z,:' ]+ )??(\d[-\d.()+*/ x]*[-+*/x][-\d.()+*/ x]*[\d)]) ?= ?(\d+)(?![\d.,]*[\d%])", re.MULTILINE
)


@pytest.fixture(scope="module")
def rows() -> dict[str, list[dict]]:
    return {split: [make_row(split, i, 5) for i in range(300)] for split in SPLITS}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A model of the small world after a few steps."""
    folder = tmp_path_factory.mktemp("numbers") / "teacher"
    settings = {
        "output_dir": str(folder),
        "numbers": {"templates": 400, "largest": 99, "steps": [2, 3]},
        "steps": 3,
        "batch_size": 4,
        "warmup_steps": 1,
        "save_every": 2,
        "block_length": 32,
        "bf16": True,
        "group_by_length": True,
        "shape": {"d_model": 32, "n_heads": 2, "n_layers": 1, "mlp_hidden_size": 32, "max_sequence_length": 384},
        "format": {"answer_length": 128, "max_length": 384},
    }
    pretrain(build(PretrainConfig, settings))
    return folder


def values_of(row: dict) -> tuple[Question, dict[str, int]]:
    """The question that a row's key names, and all its values."""
    number, _, drawn = row["key"].partition(":")
    question = {str(q.id): q for q in (*pool().known, *pool().unseen)}[number]
    return question, question.solve({f"q{i}": int(n) for i, n in enumerate(drawn.split(","))})[0]


def test_the_original_numbers_give_gsm8ks_own_text_and_label():
    header, questions = read_templates()
    assert header["usable"] == len(questions) > 1500 and "MIT" in header["licence"]
    assert header["rows"] == 7473 == header["usable"] + sum(header["left_out"].values())
    for question in questions:
        text, answer = question.write(question.original)
        assert original_check(text, answer) == question.check
        assert question.fits({f"q{i}": n for i, n in enumerate(question.numbers)}) == question.original


def test_recomputing_every_answer_gives_its_label_and_every_equation_in_it_holds(rows):
    equations = 0
    for row in (row for split in rows.values() for row in split):
        question, values = values_of(row)
        assert (row["question"], row["answer"]) == question.write(values)
        assert gsm8k.gold(row) == values[f"r{len(question.steps) - 1}"]
        for left, right in EQUATION.findall(row["answer"].replace("$", "")):
            try:
                value = Expression.parse(left.replace("x", "*").replace(" ", "")).values({})[-1]
            except NotArithmetic:  # 8 12 ounce bottles
                continue
            assert value == Fraction(right), row
            equations += 1
    assert equations > 500


@pytest.mark.parametrize("spread", [2, 4])
def test_numbers_stay_near_the_originals_and_keep_their_order(rows, spread):
    farther, furthest = [make_row("train", i, 5, NumbersWorld(spread=spread)) for i in range(300)], 1
    for row in farther + [row for split in rows.values() for row in split]:
        question, values = values_of(row)
        own = question.original
        asked = [f"q{i}" for i in range(len(question.numbers))]
        for name in question.moving:
            factor = spread if name[0] == "q" else spread**2
            furthest = max(furthest, values[name] / own[name] if name[0] == "q" else 1)
            assert type(values[name]) is int and 0 < values[name] <= 999
            assert math.ceil(own[name] / factor) <= values[name] <= own[name] * factor
            assert (values[name] == 1) == (own[name] == 1)
        for a in asked:
            for b in asked:
                assert (values[a] < values[b]) == (own[a] < own[b])
        for article, number in re.findall(r"\b([Aa]n?) \$?(\d+)\b(?![.,]\d)", row["question"]):
            own_words = question.write(own)[0]
            assert article.lower() == article_of(int(number)) or f"{article} {number}" in own_words
    assert spread - 0.5 < furthest <= spread


def test_splits_share_no_instance_and_unseen_questions_none_at_all(rows):
    texts = {split: {row["question"] for row in found} for split, found in rows.items()}
    for split in SPLITS[1:]:
        assert not texts["train"] & texts[split]
    known, unseen = pool().known, pool().unseen
    assert not {q.group for q in known} & {q.group for q in unseen}
    assert {row["key"].partition(":")[0] for row in rows["questions"]} <= {str(q.id) for q in unseen}
    assert 0.05 < len(unseen) / len(known) < 0.15


def test_rows_never_change():
    rows = [make_row(split, i) for split in SPLITS for i in range(10)]
    assert rows == [make_row(split, i) for split in SPLITS for i in range(10)]
    assert hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:12] == "8822a3c34d5a"
    assert make_row("train", 0, seed=1) != make_row("train", 0)


def test_a_row_becomes_a_template():
    template = template_of(0, **NATALIA)
    assert template.question.startswith("Natalia sold clips to {q0} of her friends")
    assert template.answer.startswith("Natalia sold {q0}/2 = {r0} clips in May.\nNatalia sold {q0}+{r0} = {r1} clips")
    assert (template.numbers, template.steps) == ((48,), ("q0/2", "q0+r0"))
    assert template.answer.endswith("\n#### {r1}")


@pytest.mark.parametrize(
    "question,answer,reason",
    [
        ("Tom has 9 bags of 6 nuts.", "9*6 = 54 nuts.\n#### 54", "no arithmetic in brackets"),
        ("Tom has 9 bags of 6 nuts.", "<<9*6=53>>53\n#### 53", "rounded or wrong"),
        ("Tom has 9 bags of 6 nuts.", "<<9*6*31=1674>>1674\n#### 1674", "arithmetic is not explained"),
        ("Tom has 9 nuts. 15 more come, then 6.", "<<15-9=6>>6\n<<6+6=12>>12\n#### 12", "could be two things"),
        ("Tom has 9 bags of 6 nuts.", "<<9*6=54>>54 in 17 minutes.\n#### 54", "text is not explained"),
        ("Tom has 9 bags of 6 nuts.", "<<9*6=54>>54 nuts for all twelve.\n#### 54", "number in words"),
        ("Tom has 9 bags of 6 nuts.", "<<9*6=54>>54kg.\n#### 54", "part of a word"),
        ("Tom has 9 bags of 6 nuts.", "<<9*6=54>>54.00\n#### 54", "plain whole number"),
        ("Tom has 9 bags of 6 nuts.", "<<9*6=54>>54 and 9+6 = 9.\n#### 54", "outside brackets"),
        ("Tom has 9 nuts for 6 men.", "<<9/6=1.5>>1.5\n#### 1.5", "not whole"),
        ("Tom left at 9:30 with 20% off.", "<<20/100=0.2>>0.2\n#### 0.2", "no number of the question can change"),
        ("Tom has 9 bags of 6 nuts.", "<<9*6=54>>54\n#### 9", "last bracket is not the answer"),
    ],
)
def test_a_row_that_is_not_certain_is_left_out_with_its_reason(question, answer, reason):
    with pytest.raises(Unusable, match=reason):
        template_of(0, question, answer)


@pytest.mark.parametrize(
    "sentence",
    ["It lasts 3/4 of a week.", "It is 25% off.", "He is 5th.", "He left at 7:45.", "It was in May 2015.", "A week has 7 days.",
     "A spider has 8 legs.", "He works 5 days a week and rests at the weekend.", "He paid with 3 $20 bills.", "In 1 hour he came."],
)  # fmt: skip
def test_what_is_no_plain_count_stays(sentence):
    template = template_of(0, f"{sentence} Tom has 96 nuts and 37 pens.", "<<96+37=133>>133\n#### 133")
    assert template.question.startswith(sentence) or sentence.startswith("He paid")
    assert "$20 bills" in template.question or not sentence.startswith("He paid")


def test_a_number_that_says_the_same_twice_stays():
    question = "Tom has 9 bags, 9 boxes and 40 nuts. He eats 9 nuts."
    template = template_of(0, question, "40 - 9 = <<40-9=31>>31\n#### 31")
    assert template.question == question.replace("40", "{q0}") and template.steps == ("q0-9",)


def test_dials():
    easy = pool(SMALL)
    assert len(easy.known) == 400
    assert all(2 <= len(q.steps) <= 3 and q.largest <= 99 for q in easy.known)
    for split in SPLITS:
        for i in range(50):
            assert max(map(int, make_row(split, i, world=SMALL)["key"].partition(":")[2].split(","))) <= 99
    with pytest.raises(ConfigError, match="steps=\\[3, 2\\] must be in ascending order"):
        build(NumbersWorld, {"steps": [3, 2]})
    with pytest.raises(ValueError, match="templates=9000 but only"):
        pool_of(read_templates()[1], NumbersWorld(templates=9000))


@pytest.mark.parametrize("templates", [80, 200, None])
def test_fewer_known_questions_still_have_the_words_of_the_unseen(templates):
    found = pool(NumbersWorld(templates, 60, (2, 3), "numbers"))
    every = pool(NumbersWorld(None, 60, (2, 3), "numbers"))
    assert len(found.known) == (templates or len(every.known)) and {*found.known} <= {*every.known}
    assert found.unseen and {*found.unseen} <= {*every.unseen}
    assert not {q.group for q in found.known} & {q.group for q in found.unseen}
    counts = Counter(word for q in found.known for word in fixed_pieces(q, "numbers"))
    assert all(counts[word] >= 2 for q in found.unseen for word in fixed_pieces(q, "numbers"))


@pytest.mark.parametrize("tokens", ["digits", "numbers"])
def test_the_tokenizer_gives_every_text_back(tokens, tmp_path):
    world = NumbersWorld(tokens=tokens)
    build_tokenizer(world).save_pretrained(tmp_path)
    tokenizer = JsonTokenizer(tmp_path, name="words")
    for split in SPLITS:
        for i in range(150):
            row = make_row(split, i, 1, world)
            for text in (row["question"], row["answer"]):
                ids = tokenizer(text, add_special_tokens=False)["input_ids"]
                assert tokenizer.unk_token_id not in ids
                assert tokenizer.decode(ids) == text
    number = tokenizer("He has 317 nuts", add_special_tokens=False)["input_ids"]
    assert len(number) == (6 if tokens == "digits" else 4)


@pytest.mark.parametrize("tokens", ["digits", "numbers"])
def test_rows_of_sums_are_right_and_only_their_results_are_asked(tokens):
    world = NumbersWorld(templates=100, largest=60, steps=(2, 3), tokens=tokens)
    tokenizer, signs = build_tokenizer(world), Counter()
    for index in range(50):
        row = make_sums(index, world=world)
        lines = row["answer"].split("\n")
        assert len(lines) == SUMS and row == make_sums(index, world=world) != make_sums(index, 1, world)
        ids = tokenizer(row["answer"])["input_ids"]
        asked = [i for i, is_result in zip(ids, results_of(tokenizer, ids), strict=True) if is_result]
        assert tokenizer.unk_token_id not in ids
        results = ""
        for line in lines:
            first, second, result = (int(n) for n in re.findall(r"\d+", line))
            (sign,) = re.findall(r"[-+*/]| x ", line)
            sign = "*" if sign == " x " else sign
            (value,) = Expression.parse(f"{first}{sign}{second}").values({})
            assert value == result and min(first, second, result) >= 2 and max(first, second, result) <= world.largest
            signs[sign] += 1
            results += str(result)
        assert "".join(tokenizer.convert_ids_to_tokens(asked)) == results
    assert min(signs[sign] for sign in "+-*/") > 30 and len(pool(world).signs["="]) > 1


@pytest.mark.parametrize("tokens", ["digits", "numbers"])
def test_one_result_is_asked_wherever_it_is_said(tokens):
    tokenizer = build_tokenizer(NumbersWorld(templates=100, largest=60, steps=(2, 3), tokens=tokens))
    prompt, answer = (
        tokenizer(text)["input_ids"] for text in ("12 packs, 7 more", "12 + 7 = 19 packs, 19 - 7 = 12\n#### 19")
    )
    asked = one_result_of(tokenizer, prompt, answer, random.Random(0))
    said = [t for t, is_asked in zip(tokenizer.convert_ids_to_tokens(answer), asked, strict=True) if is_asked]
    assert said == (["19"] * 3 if tokens == "numbers" else ["1", "9"] * 3)
    nothing = tokenizer("12 + 7")["input_ids"]
    assert all(one_result_of(tokenizer, prompt, nothing, random.Random(0)))  # no result: the whole answer is asked


def test_sums_are_as_frequent_as_asked_and_in_training_only():
    numbers = {"templates": 100, "largest": 60, "steps": [2, 3], "tokens": "numbers"}
    tree = {"output_dir": "o", "steps": 2, "warmup_steps": 1, "numbers": numbers, "sums_share": 0.3, "format": {}}
    tree |= {"shape": {"d_model": 32, "n_heads": 2, "n_layers": 1, "mlp_hidden_size": 32}}
    config = build(PretrainConfig, tree)
    tokenizer = build_tokenizer(config.numbers)
    shares = {}
    for split in ("train", "validation"):
        rows = FreshProblems(config, tokenizer, split, 400)
        shares[split] = sum(rows.row(i)["question"] == "=" for i in range(400)) / 400
    assert 0.23 < shares["train"] < 0.37 and shares["validation"] == 0
    with pytest.raises(ConfigError, match="need numbers"):
        build(PretrainConfig, tree | {"numbers": None})


def test_score_is_the_gsm8k_metric(rows):
    for row in rows["questions"]:
        answer = row["answer"]
        wrong = answer.rpartition(" ")[0] + f" {int(answer.rpartition(' ')[2]) + 1}"
        for response, right in ((answer, True), (wrong, False)):
            assert gsm8k_numbers.score(row, response) is gsm8k.score(row, response) is right


def test_prepared_files(tmp_path, run_main):
    words = (
        "--dataset",
        "gsm8k_numbers",
        "--max_samples",
        50,
        "--templates",
        400,
        "--largest",
        99,
        "--steps",
        2,
        3,
        "--spread",
        3,
    )
    for name in ("a", "b"):
        said, printed = run_main(prepare_data.main, *words, "--output_dir", tmp_path / name)
        assert said is None and "50 train" in printed
    first, second = (json.loads((tmp_path / name / "manifest.json").read_text()) for name in ("a", "b"))
    assert first == second and first["world"]["spread"] == 3
    held = {split: read_jsonl(tmp_path / f"a/{split}.jsonl") for split in SPLITS}
    assert {split: len(found) for split, found in held.items()} == first["counts"]
    for split in SPLITS[1:]:
        assert len({row["question"] for row in held[split]}) == len(held[split]) > 20
    templates, instances = first["templates"], first["instances"]
    assert templates["rows"] == templates["usable"] + sum(templates["left_out"].values())
    assert templates["known"] == len(instances["known"]) and templates["unseen"] == len(instances["unseen"])
    assert {row["key"].partition(":")[0] for row in held["train"]} <= instances["known"].keys()


def test_a_source_file_is_read_and_what_is_left_out_counted(tmp_path):
    rows = [NATALIA | {"question": NATALIA["question"].replace("Natalia", name)} for name in ("Natalia", "Ann")]
    rows.append({"question": "Tom has 9 bags of 6 nuts.", "answer": "54\n#### 54"})
    write_jsonl(tmp_path / "train.jsonl", rows)
    counts = gsm8k_numbers.write_templates(tmp_path / "t.gz", read_jsonl(tmp_path / "train.jsonl"), "train.jsonl")
    assert counts["usable"] == 2 and counts["left_out"]["no arithmetic in brackets"] == 1
    header, questions = read_templates(tmp_path / "t.gz")
    assert header["rows"] == 3 and [q.group for q in questions] == [0, 0]
    # Every even number from 24 to 96.
    assert questions[0].instances() == 37


def test_a_pretrained_model_resumes_is_evaluated_and_fits_the_main_job(teacher, tmp_path, run_main):
    trained = weights_fingerprint(teacher)
    shutil.rmtree(teacher / "checkpoints/checkpoint-3")
    pretrain(
        load(PretrainConfig, teacher / "config.yaml")
    )  # from the checkpoint before, with the rows and masks of the step lost
    assert weights_fingerprint(teacher) == trained
    answerer = Answerer(teacher, DecodingOptions())
    answerer.check_words(make_row("questions", 0, world=SMALL)["question"])
    with pytest.raises(ValueError, match=r"does not know the words Zaphod, towels\?;"):
        answerer.check_words("How many has Zaphod of 12 towels?")
    words = ("--dataset", "gsm8k_numbers", "--max_samples", 5, "--templates", 400, "--largest", 99, "--steps", 2, 3)
    assert run_main(prepare_data.main, *words, "--output_dir", tmp_path / "data")[0] is None
    found = ("--model_path", teacher, "--data", tmp_path / "data", "--max_samples", 4, "--steps", 4)
    said, printed = run_main(held_out.main, *found, "--json", "--output", tmp_path / "runs")
    assert said is None
    lines = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    assert [line["split"] for line in lines] == ["numbers", "questions"]
    for line in lines:
        assert line["accuracy_95"][0] <= line["accuracy"] <= line["accuracy_95"][1] and line["nfe"] <= 4
        assert len(read_jsonl(tmp_path / "runs" / line["split"] / "documents.jsonl")) == 4
    assert "no split test: choose of" in run_main(held_out.main, *found, "--splits", "test")[0]
    config = ROOT / "configs/gsm8k_numbers.yaml"
    check_experiment(load(ExperimentConfig, config, [f"teacher={teacher}", f"output_dir={tmp_path}/out"]))
    with pytest.raises(ValueError, match="gsm8k_numbers does not exist"):
        check_experiment(load(ExperimentConfig, config, ["teacher=checkpoints/teachers/none_of_gsm8k_numbers"]))


def test_the_bundled_teacher_fits_the_main_job_and_answers_what_readme_asks(run_main):
    config = load(ExperimentConfig, ROOT / "configs/gsm8k_numbers.yaml")
    check_experiment(config)
    tokenizer = JsonTokenizer(ROOT / config.teacher, name="teacher")
    assert len(tokenizer) == len(build_tokenizer(config.data.numbers))
    asked = re.search(r'gsm8k_numbers --prompt "(.*?)"', (ROOT / "README.md").read_text(), re.DOTALL)[1]
    asked = asked.replace("\\\n", "")  # as a shell joins lines
    said, printed = run_main(inference_demo.main, "--model_path", ROOT / config.teacher, "--prompt", asked)
    assert said is None and "22+31 = 53 pencils together.\n#### 53" in printed
