"""Checkpoint folders as people have them: what is wrong is said in one line before weights are read."""

import json
import shutil
from pathlib import Path

import pytest

from cd4lm.model.checkpoint import check_folder
from cd4lm.model.loading import load_model, load_network
from scripts import LLaDA_generate_dynamic
from tests.byte_checkpoint import build
from tests.conftest import ROOT

TEACHER, INPUTS = ROOT / "checkpoints/tiny_teacher", ROOT / "tests/fixtures/inputs"
ASK = ("--prompt", "tom has 7 apples . buys 3 . how many ?")
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:abcd\nsize 100\n"
INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return build(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def folder(whole, tmp_path) -> Path:
    return shutil.copytree(whole, tmp_path / "model")


def edit(file: Path, **fields) -> None:
    """Set fields of a JSON file; None takes one away."""
    tree = json.loads(file.read_text()) | fields
    file.write_text(json.dumps({name: value for name, value in tree.items() if value is not None}))


@pytest.mark.parametrize(
    "name,message",
    [
        ("F19_gen_str", "generation_config.json: gen_length='40' must be of type int"),
        ("F19_mask_none", "it has no mask_token_id"),
        ("F19_moe", "num_experts=8: a mixture of experts, which is not supported"),
        (
            "F19_no_chat_template",
            "has no chat template: put the chat_template.jinja of its base model into that folder",
        ),
    ],
)
def test_inputs(refused, tmp_path, name, message):
    for source in (INPUTS / name, TEACHER):
        for file in source.iterdir():
            if source == INPUTS / name or file.name in ("tokenizer.json", "model.safetensors"):
                shutil.copy(file, tmp_path / file.name)
    refused(LLaDA_generate_dynamic.main, message, "--model_path", tmp_path, *ASK)


def test_an_adapter_is_never_added_unasked(folder):
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="holds adapter_config.json beside whole weights: if they are merged, move"):
        check_folder(folder)
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    with pytest.raises(ValueError, match="holds an adapter alone: merge it"):
        check_folder(folder)


def test_one_set_of_weights(folder):
    """A file beside shards, an index that names itself, shards without their index or without one of them."""
    shard = folder / "model-00001-of-00002.safetensors"
    shutil.copy(folder / "model.safetensors", shard)
    (folder / INDEX).write_text(json.dumps({"weight_map": {"a": shard.name}}))
    with pytest.raises(ValueError, match="holds model.safetensors beside .* which names model-00001"):
        check_folder(folder)
    (folder / INDEX).write_text(json.dumps({"weight_map": {"a": "model.safetensors"}}))
    check_folder(folder)
    (folder / "model.safetensors").unlink()
    (folder / INDEX).unlink()
    with pytest.raises(ValueError, match=f"but no {INDEX}"):
        check_folder(folder)
    (folder / INDEX).write_text(json.dumps({"weight_map": {"a": shard.name, "b": "model-00002-of-00002.safetensors"}}))
    with pytest.raises(ValueError, match="has no model-00002-of-00002.safetensors, which"):
        check_folder(folder)
    (folder / INDEX).write_text(json.dumps({"weight_map": {"a": 3}}))
    with pytest.raises(ValueError, match=f"{INDEX} is damaged"):
        check_folder(folder)


@pytest.mark.parametrize(
    "file,content,message",
    [
        ("model.safetensors", POINTER, "model.safetensors is a Git LFS pointer, not the weights"),
        ("model.safetensors", "", "is damaged or truncated"),
        ("tokenizer.json", POINTER, "tokenizer.json is a Git LFS pointer"),
        ("config.json", POINTER, "config.json is a Git LFS pointer"),
        ("config.json", "", "config.json is not valid JSON"),
        ("config.json", "[" * 100_000, "config.json is not valid JSON"),
        ("generation_config.json", '{"gen', "generation_config.json is not valid JSON"),
        ("generation_config.json", '{"gen_length": -4}', "generation_config.json: gen_length=-4 must be at least 1"),
        ("chat_template.jinja", "{{ messages[0]['content'] + 1 }}", "chat template of"),
        ("chat_template.jinja", "{% for m in messages %}", "chat template of"),
    ],
)
def test_damaged_files(refused, folder, file, content, message):
    (folder / file).write_text(content)
    refused(LLaDA_generate_dynamic.main, message, "--model_path", folder, *ASK)


@pytest.mark.parametrize(
    "fields,message",
    [
        ({"mask_token_id": None}, "it has no mask_token_id"),
        ({"mask_token_id": "3"}, "mask_token_id='3' is none of the 262 token ids"),
        ({"mask_token_id": 9999}, "mask_token_id=9999 is none of the 262 token ids"),
        ({"mask_token_id": 0}, "mask_token_id and eos_token_id are both 0"),
        ({"mask_token_id": 4}, "mask_token_id=4 in config.json, but the tokenizer's <|mdm_mask|> is 3"),
        ({"n_heads": "4"}, "n_heads='4' must be a whole number of at least 1"),
        ({"n_heads": 0}, "n_heads=0 must be a whole number of at least 1"),
        ({"rope_theta": "big"}, "rope_theta='big' must be a number above 0"),
        ({"d_model": None, "hidden_size": 32}, "it has no d_model"),
        ({"quantization_config": {"bits": 4}}, "quantized weights are not supported"),
        ({"n_layers": 3}, "9 missing weight"),
        ({"mlp_hidden_size": 64}, "has shape"),
    ],
)
def test_settings_of_the_model(refused, folder, fields, message):
    edit(folder / "config.json", **fields)
    refused(LLaDA_generate_dynamic.main, message, "--model_path", folder, *ASK)


@pytest.mark.parametrize(
    "fields,message",
    [
        ({"eos_token": None}, "has no EOS: name eos_token in its tokenizer_config.json"),
        ({"eos_token": "</s>"}, "outside the vocabulary of 262"),
        ({"eos_token": 5}, "has no usable tokenizer"),
    ],
)
def test_settings_of_the_tokenizer(refused, folder, fields, message):
    edit(folder / "tokenizer_config.json", **fields)
    refused(LLaDA_generate_dynamic.main, message, "--model_path", folder, *ASK)


@pytest.mark.parametrize("load", [load_network, load_model])
def test_a_layout_that_does_not_fit_is_seen_in_the_headers(folder, load, capsys):
    """Before any weight is read, and without the report of transformers."""
    edit(folder / "config.json", n_layers=3)
    options = {"dtype": None} if load is load_network else {"dtype": "auto"}
    with pytest.raises(ValueError, match="9 missing weight"):
        load(folder, **options)
    assert capsys.readouterr() == ("", "")


def test_old_weights_that_are_none(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"not found")
    with pytest.raises(ValueError, match="pytorch_model.bin is damaged or truncated"):
        check_folder(folder)
