"""JsonTokenizer against AutoTokenizer, and the checkpoints that it leaves to transformers."""

import json
import shutil

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from cd4lm.data.examples import encode_prompt, end_ids
from cd4lm.model import CheckpointError
from cd4lm.model.loading import tokenizer_for_inference
from cd4lm.model.tokenizer import JsonTokenizer
from tests.byte_checkpoint import byte_tokenizer
from tests.conftest import ROOT

TEXTS = (
    "tom has 7 apples . buys 3 . gives 2 . how many ?",
    "",
    " leading and trailing ",
    "two\n\nparagraphs\nand\ttabs",
    "word<|eot_id|>word <|mdm_mask|><|mdm_mask|>  <|endoftext|>",
    "<|start_header_id|>user<|end_header_id|>\n\n7 + 3<|eot_id|>",
    "<|eot_id", "<unk> <UNK>", "naïve café 日本語 🙂‍↔️ ﬁ \u200b\ufeff e\u0301",
    "def f(x):\n    return x ** 2  # done",
    "\x00\x7f\r\n",
)  # fmt: skip
CHATS = (
    [{"role": "user", "content": TEXTS[0]}],
    [{"role": "system", "content": " be brief "}, {"role": "user", "content": "7 + 3 ?\n"}],
    [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b <|eot_id|> \n"}],
)
# What LLaDA's released chat templates use of jinja beyond variables.
TEMPLATE = """{% set found = namespace(n=0) %}
{% for m in messages %}
    {% if loop.first and tools is not none %}{{ tools | tojson }}{% endif %}
    {% if m['role'] == 'tool' %}{{ raise_exception('no tools') }}{% endif %}
    {% if m['role'] == 'system' %}{% continue %}{% endif %}
    {% set found.n = found.n + 1 %}
{{ bos_token }}{{ {'é': m['role']} | tojson }} {{ m['content'] }}
{% endfor %}
{{ found.n }}{{ eos_token }}"""


@pytest.fixture(params=["words", "bytes", "template"])
def folder(request, tmp_path):
    """The embedded task's tokenizer, one of bytes, and that with another template inside its configuration."""
    if request.param == "words":
        return ROOT / "checkpoints/tiny_teacher"
    byte_tokenizer().save_pretrained(tmp_path)
    if request.param == "template":
        (tmp_path / "chat_template.jinja").unlink()
        edit(tmp_path, chat_template=TEMPLATE)
    return tmp_path


def edit(folder, **fields) -> None:
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


@pytest.fixture
def both(folder):
    light = tokenizer_for_inference(folder)
    assert isinstance(light, JsonTokenizer)
    return light, AutoTokenizer.from_pretrained(folder)


def test_ids_and_texts(both):
    light, full = both
    for text in TEXTS:
        for special in (True, False):
            ids = full(text, add_special_tokens=special)["input_ids"]
            assert light(text, add_special_tokens=special)["input_ids"] == ids
        for skip in (True, False):
            wanted = full.decode(ids, skip_special_tokens=skip)
            assert light.decode(ids, skip_special_tokens=skip) == wanted
            assert light.decode(torch.tensor(ids, dtype=torch.long), skip_special_tokens=skip) == wanted
    everything = list(range(len(full)))
    assert light.decode(everything) == full.decode(everything)
    assert light.decode(everything, skip_special_tokens=True) == full.decode(everything, skip_special_tokens=True)


def test_vocabulary_and_special_tokens(both):
    light, full = both
    assert light.get_vocab() == full.get_vocab() and len(light) == len(full)
    for name in ("bos_token", "eos_token", "pad_token", "mask_token", "unk_token", "chat_template", "name_or_path"):
        assert getattr(light, name) == getattr(full, name)
        if name.endswith("_token"):
            assert getattr(light, f"{name}_id") == getattr(full, f"{name}_id")
    for token in (*full.get_vocab(), "never seen"):
        assert light.convert_tokens_to_ids(token) == full.convert_tokens_to_ids(token)
    assert [light.convert_ids_to_tokens(i) for i in range(len(full))] == full.convert_ids_to_tokens(range(len(full)))
    assert end_ids(light) == end_ids(full)


def test_chat_templates(both):
    light, full = both
    for chat in CHATS:
        for options in ({}, {"add_generation_prompt": True}, {"continue_final_message": True}):
            wanted = full.apply_chat_template(chat, tokenize=False, **options)
            assert light.apply_chat_template(chat, tokenize=False, **options) == wanted
    assert encode_prompt(light, "7 + 3 ?") == encode_prompt(full, "7 + 3 ?")


def test_a_template_that_refuses_or_reaches_out(tmp_path):
    byte_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(TEMPLATE)
    with pytest.raises(ValueError, match="refuses this conversation: no tools"):
        tokenizer_for_inference(tmp_path).apply_chat_template([{"role": "tool", "content": ""}], tokenize=False)
    (tmp_path / "chat_template.jinja").write_text("{{ messages.__class__.__base__.__subclasses__() }}")
    with pytest.raises(ValueError, match="unsafe"):
        tokenizer_for_inference(tmp_path).apply_chat_template(CHATS[0], tokenize=False)


@pytest.mark.parametrize(
    "fields",
    [
        {"add_bos_token": True},
        {"tokenizer_class": "Qwen2TokenizerFast"},
        {"extra_special_tokens": ["<|new|>"]},
        {"cls_token": "[CLS]"},
        {"eos_token": {"__type": "AddedToken", "content": "<|endoftext|>", "lstrip": True, "special": True}},
        {"split_special_tokens": True},
        {"clean_up_tokenization_spaces": True},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_what_tokenizer_json_does_not_say_is_left_to_transformers(tmp_path, fields):
    byte_tokenizer().save_pretrained(tmp_path)
    edit(tmp_path, **fields)
    assert isinstance(tokenizer_for_inference(tmp_path), PreTrainedTokenizerBase)


def test_the_released_layout_of_llada_needs_no_transformers(tmp_path):
    """Its configuration names every added token again, says what is off, and has a map of names beside it."""
    byte_tokenizer().save_pretrained(tmp_path)
    added = json.loads((tmp_path / "tokenizer.json").read_text())["added_tokens"]
    decoder = {str(token.pop("id")): token for token in added}
    names = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "gmask_token": "<|mdm_mask|>"}
    off = {"add_bos_token": False, "add_eos_token": False, "clean_up_tokenization_spaces": False}
    edit(tmp_path, tokenizer_class="PreTrainedTokenizerFast", added_tokens_decoder=decoder, **off, **names)
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(names | {"eos_token": decoder["0"]}))
    light, full = tokenizer_for_inference(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert isinstance(light, JsonTokenizer)
    for text in TEXTS:
        assert light(text)["input_ids"] == full(text)["input_ids"]
    decoder["0"]["lstrip"] = True
    edit(tmp_path, added_tokens_decoder=decoder)
    assert isinstance(tokenizer_for_inference(tmp_path), PreTrainedTokenizerBase)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_damaged_files(tmp_path, name):
    shutil.copytree(ROOT / "checkpoints/tiny_teacher", tmp_path, dirs_exist_ok=True)
    (tmp_path / name).write_text('{"version"')
    with pytest.raises(CheckpointError, match="has no usable tokenizer") as caught:
        tokenizer_for_inference(tmp_path)
    assert "\n" not in str(caught.value)
