"""iLLaDA's released layout: what loads, and what is refused before or instead of loading it."""

import json
import shutil

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel

from cd4lm.model import ILLaDAConfig, ILLaDAForCausalLM
from cd4lm.model.loading import load_config, load_model, load_network
from tests.model.illada_folder import (
    EMBEDDING,
    HEAD,
    MASK,
    RELEASED,
    SHAPE,
    random_llama,
    write_checkpoint,
    write_tokenizer,
)

INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    folder = tmp_path_factory.mktemp("illada")
    write_checkpoint(folder, random_llama())
    return folder


@pytest.fixture
def folder(released, tmp_path):
    return shutil.copytree(released, tmp_path / "model")


def edit(folder, **fields) -> None:
    """Set fields of config.json; None takes one away."""
    tree = json.loads((folder / "config.json").read_text()) | fields
    kept = {key: value for key, value in tree.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(kept))


def test_released_layout_without_its_code(released, tmp_path):
    """The mask token's id comes from its name; what is saved has it in config.json, and the head once."""
    config, model = AutoConfig.from_pretrained(released), AutoModel.from_pretrained(released)
    assert isinstance(config, ILLaDAConfig) and isinstance(model, ILLaDAForCausalLM)
    for one in (config, model.config, ILLaDAConfig.from_pretrained(released), load_config(released)):
        assert (one.mask_token_id, one.eos_token_id) == (MASK, 2)
    model.save_pretrained(tmp_path)
    before, after = load_file(released / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    saved = json.loads((tmp_path / "config.json").read_text())
    fields = SHAPE | RELEASED | {"mask_token_id": MASK}
    assert {key for key in fields if saved.get(key) != fields[key]} <= {"transformers_version", "auto_map"}
    again = load_network(tmp_path, torch.float32)  # no tokenizer there
    assert again.config.mask_token_id == MASK and again.lm_head.weight is again.model.embed_tokens.weight


LOADERS = {
    "light": load_network,
    "transformers": lambda folder: load_model(folder, dtype=torch.float32),
    "auto": AutoModel.from_pretrained,
}


@pytest.fixture(params=list(LOADERS))
def refuse(request):
    """Assert that each way of loading a folder refuses it in one line."""

    def check(folder, message: str) -> None:
        with pytest.raises(ValueError, match=message) as caught:
            LOADERS[request.param](folder)
        assert "\n" not in str(caught.value)

    return check


@pytest.fixture
def unread(monkeypatch):
    """Fails where weights are read."""
    monkeypatch.setattr("cd4lm.model.loading.read_weights", lambda *_: pytest.fail("weights were read"))
    monkeypatch.setattr(
        "transformers.modeling_utils.load_state_dict", lambda *_, **__: pytest.fail("weights were read")
    )


class TestMaskToken:
    @pytest.mark.parametrize("remaining", [None, "tokenizer_config.json"])
    def test_without_its_name_there_is_none(self, folder, refuse, unread, remaining):
        write_tokenizer(folder, mask=None)
        for file in folder.glob("*token*"):
            if file.name != remaining:
                file.unlink()
        refuse(folder, r"no mask_token_id and no tokenizer file beside it names <\[MASK\]>: copy the tokenizer files")

    def test_another_name_is_no_mask_token(self, folder, refuse, unread):
        write_tokenizer(folder, mask="<|mask|>")
        refuse(folder, r"names <\[MASK\]>")

    def test_files_that_differ(self, folder, refuse, unread):
        edit(folder, mask_token_id=7)
        refuse(folder, r"mask_token_id=7, but the tokenizer files have <\[MASK\]> as 5: correct one")
        edit(folder, mask_token_id=None)
        (folder / "added_tokens.json").write_text('{"<[MASK]>": 6}')
        refuse(folder, r"<\[MASK\]> is .* in the tokenizer files: they are not of one model")

    def test_an_id_that_the_model_does_not_have(self, folder, refuse, unread):
        edit(folder, vocab_size=4, mask_token_id=None)
        refuse(folder, "mask_token_id=5 is none of the 4 token ids")

    @pytest.mark.parametrize("content", ["", "version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 1\n"])
    def test_a_tokenizer_that_cannot_be_read(self, folder, refuse, unread, content):
        (folder / "tokenizer.json").write_text(content)
        refuse(folder, "tokenizer.json is a Git LFS pointer|has no usable tokenizer")

    @pytest.mark.parametrize("content", ['{"added_tokens_decoder": [1]}', '{"added_tokens_decoder": {"5": 7}}', "{"])
    def test_names_that_cannot_be_read(self, folder, refuse, unread, content):
        (folder / "tokenizer_config.json").write_text(content)
        refuse(folder, "has no usable tokenizer|tokenizer_config.json is not valid JSON")

    def test_an_end_that_cannot_be_read(self, folder, refuse, unread):
        edit(folder, eos_token_id=None)
        (folder / "tokenizer_config.json").write_text('{"eos_token": {"name": "</s>"}}')
        refuse(folder, "has no usable tokenizer")

    def test_config_alone_where_no_tokenizer_is_there(self, folder):
        for file in folder.glob("*token*"):
            file.unlink()
        edit(folder, mask_token_id=11)
        assert load_config(folder).mask_token_id == AutoConfig.from_pretrained(folder).mask_token_id == 11

    def test_among_the_words_alone(self, folder):
        """A tokenizer that has it as an ordinary word."""
        file = folder / "tokenizer.json"
        tree = json.loads(file.read_text())
        file.write_text(json.dumps(tree | {"added_tokens": []}))
        (folder / "tokenizer_config.json").unlink()
        assert load_config(folder).mask_token_id == MASK

    def test_eos_by_its_name(self, folder):
        edit(folder, eos_token_id=None)
        assert load_config(folder).eos_token_id == AutoConfig.from_pretrained(folder).eos_token_id == 2


@pytest.mark.parametrize(
    "option,value",
    [
        ("rope_scaling", {"rope_type": "linear", "factor": 2.0}),
        ("rope_parameters", {"rope_type": "yarn", "factor": 2.0}),
        ("layer_norm_eps", 1e-5),
        ("attention_bias", True),
        ("mlp_bias", True),
        ("tie_word_embeddings", False),
        ("hidden_act", "gelu"),
        ("attention_dropout", 0.1),
        ("pretraining_tp", 2),
        ("sliding_window", 512),
        ("partial_rotary_factor", 0.5),
        ("head_dim", 16),
        ("num_experts", 8),
        ("quantization_config", {"bits": 4}),
    ],
)
def test_what_the_format_could_say_and_is_not_done_is_refused_by_name(folder, refuse, unread, option, value):
    edit(folder, **{option: value})
    refuse(folder, option)


@pytest.mark.parametrize("field", ["rope_theta", "rms_norm_eps", "num_key_value_heads", "intermediate_size"])
def test_a_shape_is_never_guessed(folder, refuse, unread, field):
    edit(folder, **{field: None})
    refuse(folder, f"it has no {field}, which every illada checkpoint has")


class TestWeights:
    def change(self, folder, **weights) -> None:
        found = load_file(folder / "model.safetensors")
        found |= {name.replace("__", "."): tensor for name, tensor in weights.items()}
        save_file(found, folder / "model.safetensors", {"format": "pt"})

    def test_a_head_that_is_the_embedding_loads(self, folder):
        embedding = load_file(folder / "model.safetensors")[EMBEDDING]
        self.change(folder, lm_head__weight=embedding.clone())
        for model in (load_network(folder, torch.float32), AutoModel.from_pretrained(folder)):
            assert model.lm_head.weight is model.model.embed_tokens.weight
            assert torch.equal(model.lm_head.weight, embedding)

    def test_a_head_of_its_own_is_refused(self, folder, refuse):
        other = load_file(folder / "model.safetensors")[EMBEDDING].clone()
        other[3, 1] += 1e-3
        self.change(folder, lm_head__weight=other)
        refuse(folder, "lm_head.weight differs from model.embed_tokens.weight")

    def test_old_files_hold_both_names(self, folder, refuse):
        """torch.save keeps a tied weight under both."""
        (folder / "model.safetensors").unlink()
        weights = random_llama().state_dict()
        torch.save(weights, folder / "pytorch_model.bin")
        assert HEAD in weights and torch.equal(load_network(folder, torch.float32).lm_head.weight, weights[HEAD])
        torch.save(weights | {HEAD: weights[HEAD] + 1}, folder / "pytorch_model.bin")
        refuse(folder, "lm_head.weight differs from")

    def test_an_unexpected_weight_is_named(self, folder, refuse):
        self.change(folder, model__layers__0__self_attn__q_proj__bias=torch.zeros(48))
        refuse(folder, r"1 unexpected weight\(s\), first model.layers.0.self_attn.q_proj.bias")

    def test_a_head_alone_is_no_embedding(self, folder, refuse):
        found = load_file(folder / "model.safetensors")
        found[HEAD] = found.pop(EMBEDDING)
        save_file(found, folder / "model.safetensors", {"format": "pt"})
        refuse(folder, "1 missing weight.*first model.embed_tokens.weight")

    def test_in_shards_without_a_head_and_without_a_shard(self, folder, refuse, capsys):
        model = load_model(folder, dtype=torch.float32)
        whole = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        model.save_pretrained(folder, max_shard_size="40KB")
        names = json.loads((folder / INDEX).read_text())["weight_map"]
        assert len(set(names.values())) > 2 and HEAD not in names and names.keys() == whole.keys()
        for loaded in (load_network(folder, torch.float32), AutoModel.from_pretrained(folder)):
            state = loaded.state_dict()
            assert all(torch.equal(state[name], whole[name]) for name in whole)
            assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
        (folder / sorted(set(names.values()))[1]).unlink()
        refuse(folder, r"has no model-00002-of-\d+.safetensors, which model.safetensors.index.json names")


def test_a_hub_name(released, tmp_path, monkeypatch):
    """From the hub's cache, without a network: the mask token's id comes from the tokenizer files there."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    stored = tmp_path / "models--somebody--illada"
    (stored / "refs").mkdir(parents=True)
    (stored / "refs/main").write_text("0" * 40)
    shutil.copytree(released, stored / "snapshots" / ("0" * 40))
    assert load_config("somebody/illada").mask_token_id == MASK
    assert load_network("somebody/illada").config.mask_token_id == MASK
    model = AutoModel.from_pretrained("somebody/illada", cache_dir=tmp_path, local_files_only=True)
    assert model.config.mask_token_id == MASK
