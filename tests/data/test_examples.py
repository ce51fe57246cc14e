"""Tokens of prompt and answer: the boundary, the EOS policies, and what a batch holds."""

import json

import pytest
import torch
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from cd4lm.data.examples import AnswerCollator, AnswerDataset, encode_answer, encode_prompt, end_ids
from cd4lm.settings import FormatConfig

ROW = {"question": "tom has 7 apples . buys 3 . how many ?", "answer": "7 + 3 = 10 . #### 10"}


def test_the_boundary_is_exact(tokenizer):
    dataset = AnswerDataset([ROW], tokenizer, FormatConfig(eos="none"))
    example = dataset[0]
    assert tokenizer.decode(example["answer"]) == ROW["answer"]
    assert example["prompt"][-1] == tokenizer.convert_tokens_to_ids("\n\n")


@pytest.mark.parametrize("eos,count", [("none", 0), ("one", 1), ("fill", 12)])
def test_eos_policies(tokenizer, eos, count):
    ids = encode_answer(tokenizer, ROW["answer"], FormatConfig(eos=eos, answer_length=20))
    assert ids[8:] == [tokenizer.eos_token_id] * count


@pytest.mark.parametrize("eos,count", [("none", 0), ("one", 1), ("fill", 11)])
def test_an_answer_may_end_its_turn_before_eos(tokenizer, eos, count):
    """As LLaDA's own fine-tuning data; the canvas stays as long, and decoding ends at the first of the two."""
    ids = encode_answer(tokenizer, ROW["answer"], FormatConfig(end="turn", eos=eos, answer_length=20))
    plain = encode_answer(tokenizer, ROW["answer"], FormatConfig(eos="none"))
    turn = tokenizer.convert_tokens_to_ids("<|eot_id|>")
    assert ids == [*plain, turn, *[tokenizer.eos_token_id] * count]
    first = next(i for i, token in enumerate(ids) if token in end_ids(tokenizer))
    assert tokenizer.decode(ids[:first]) == ROW["answer"]


def test_a_tokenizer_without_an_end_of_turn_is_refused(tokenizer):
    """Unknown tokens become unk or, as here, nothing."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    backend["added_tokens"] = [token for token in backend["added_tokens"] if token["content"] != "<|eot_id|>"]
    backend["model"]["vocab"] = {k: v for k, v in backend["model"]["vocab"].items() if k != "<|eot_id|>"}
    ends = {"eos_token": tokenizer.eos_token, "unk_token": tokenizer.unk_token}
    bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(backend)), **ends)
    with pytest.raises(ValueError, match=r"format.end=turn needs <\|eot_id\|> or <\|im_end\|>") as caught:
        encode_answer(bare, ROW["answer"], FormatConfig(end="turn"))
    assert "\n" not in str(caught.value) and end_ids(bare) == (bare.eos_token_id,)


def test_an_answer_longer_than_the_canvas_gets_one_eos(tokenizer):
    ids = encode_answer(tokenizer, ROW["answer"], FormatConfig(eos="fill", answer_length=4))
    assert len(ids) == 9


def test_raw_template_is_the_published_text(tokenizer):
    ids = encode_prompt(tokenizer, ROW["question"], "{question} ")
    assert tokenizer.decode(ids) == ROW["question"]


def test_empty_prompts_are_refused(tokenizer):
    with pytest.raises(ValueError, match="prompt is empty"):
        encode_prompt(tokenizer, "  ")


def test_long_rows_are_counted_not_cut(tokenizer):
    long = {"question": ROW["question"], "answer": " ".join(["7"] * 60)}
    dataset = AnswerDataset([ROW, long], tokenizer, FormatConfig(eos="one", max_length=40))
    assert (len(dataset), dataset.skipped) == (1, 1)
    with pytest.raises(ValueError, match="no row fits max_length=40"):
        AnswerDataset([long], tokenizer, FormatConfig(eos="one", max_length=40))


@pytest.mark.parametrize(
    "row", [{"question": "how many ?"}, ROW | {"answer": " "}, ROW | {"answer": 8}, {"answer": "8"}]
)
def test_a_row_without_question_or_answer_is_named(tokenizer, row):
    with pytest.raises(ValueError, match="the data row 2 has no text in column '(answer|question)'") as caught:
        AnswerDataset([ROW, row], tokenizer, FormatConfig())
    assert "\n" not in str(caught.value)


def test_format_options_change_the_tokens_as_they_say(tokenizer):
    """EOS supervised or not, chat template or raw: each one option."""
    ends = {}
    for eos in ("none", "one", "fill"):
        dataset = AnswerDataset([ROW], tokenizer, FormatConfig(eos=eos, answer_length=40))
        ends[eos] = dataset[0]["answer"].count(tokenizer.eos_token_id)
    words = len(ROW["answer"].split())
    assert ends == {"none": 0, "one": 1, "fill": 40 - words}
    raw = AnswerDataset([ROW], tokenizer, FormatConfig(prompt_template="{question} "))[0]["prompt"]
    chat = AnswerDataset([ROW], tokenizer, FormatConfig())[0]["prompt"]
    assert tokenizer.decode(raw) == ROW["question"] and len(chat) > len(raw)
    assert tokenizer.bos_token_id in chat and tokenizer.bos_token_id not in raw
    braces = AnswerDataset([ROW], tokenizer, FormatConfig(prompt_template=r"{question} . {} \boxed{}"))[0]["prompt"]
    assert braces[: len(raw)] == raw and len(braces) > len(raw)  # braces other than {question} are text


@pytest.mark.parametrize("attend", [False, True])
def test_batches(tokenizer, attend):
    rows = [ROW, ROW | {"answer": "#### 10"}]
    dataset = AnswerDataset(rows, tokenizer, FormatConfig(eos="one"))
    batch = AnswerCollator(pad_id=0, attend_padding=attend)([dataset[0], dataset[1]])
    assert batch["answer"].sum(1).tolist() == [9, 3]
    assert batch["attention_mask"].all().item() is attend
    short = len(dataset[1]["prompt"]) + 3
    assert (batch["input_ids"][1, short:] == 0).all() and not batch["answer"][1, short:].any()
    assert torch.equal(batch["example_id"], torch.tensor([0, 1]))
    assert batch["prompt_length"].tolist() == [len(dataset[i]["prompt"]) for i in range(2)]
    assert torch.equal(batch["answer"].int().argmax(1), batch["prompt_length"])


def test_end_ids_are_eos_and_end_of_turn(tokenizer):
    assert tokenizer.convert_ids_to_tokens(list(end_ids(tokenizer))) == ["<|endoftext|>", "<|eot_id|>"]
