"""Dream against transformers' Qwen2, its released layout, and what every backbone must offer."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, Qwen2Config, Qwen2ForCausalLM

from cd4lm.data.examples import end_ids
from cd4lm.model import CheckpointError, DreamConfig, DreamModel, LLaDAConfig
from cd4lm.model.configuration import LLaDAFields
from cd4lm.model.dream_configuration import DreamFields
from cd4lm.model.loading import load_config, load_model, load_tokenizer
from tests.conftest import random_dream

SHAPE = {
    "hidden_size": 48,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "num_hidden_layers": 3,
    "intermediate_size": 64,
    "vocab_size": 90,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
    "initializer_range": 0.3,
}
# The other fields of a released config.json; the code that auto_map names is not there.
RELEASED = {
    "architectures": ["DreamModel"],
    "attention_dropout": 0.0,
    "auto_map": {"AutoConfig": "configuration_dream.DreamConfig", "AutoModel": "modeling_dream.DreamModel"},
    "bos_token_id": 80,
    "eos_token_id": 80,
    "hidden_act": "silu",
    "mask_token_id": 89,
    "max_window_layers": 28,
    "model_type": "Dream",
    "pad_token_id": 80,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "transformers_version": "4.46.2",
    "use_cache": False,
    "use_sliding_window": False,
}


@pytest.fixture(scope="module")
def qwen() -> Qwen2ForCausalLM:
    torch.manual_seed(2)
    config = Qwen2Config(**SHAPE, tie_word_embeddings=False, attn_implementation="eager", rope_theta=1000000.0)
    model = Qwen2ForCausalLM(config).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture(scope="module")
def folder(qwen, tmp_path_factory):
    """Qwen2's weights as a released Dream checkpoint."""
    folder = tmp_path_factory.mktemp("dream")
    (folder / "config.json").write_text(json.dumps(SHAPE | RELEASED))
    weights = {key: value.contiguous() for key, value in qwen.state_dict().items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_parity_with_qwen2_under_a_full_mask(qwen, folder):
    model, ids = load_model(folder, dtype=torch.float32), torch.randint(0, 80, (2, 20))
    everything = torch.zeros(2, 1, 20, 20)  # added to the scores: nothing is hidden
    with torch.no_grad():
        raw = qwen(input_ids=ids, attention_mask=everything).logits
        logits = model(ids).logits
    shifted = torch.cat((raw[:, :1], raw[:, :-1]), dim=1)
    assert raw.std() > 1
    torch.testing.assert_close(logits, shifted, atol=1e-4, rtol=0)


def test_released_layout_without_its_code(folder, tmp_path):
    config, model = AutoConfig.from_pretrained(folder), AutoModel.from_pretrained(folder)
    assert isinstance(config, DreamConfig) and isinstance(model, DreamModel)
    model.save_pretrained(tmp_path)
    before, after = load_file(folder / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    saved = json.loads((tmp_path / "config.json").read_text())
    fields = SHAPE | RELEASED
    changed = {key for key in fields if saved.get(key) != fields[key]}
    assert changed <= {"transformers_version", "auto_map"}


@pytest.mark.parametrize("left,right", [(5, 0), (0, 4), (3, 2)])
def test_padding_on_either_side_changes_nothing(left, right):
    model, ids = random_dream(), torch.randint(0, 57, (2, 12))
    padded = torch.nn.functional.pad(ids, (left, right), value=7)
    real = torch.nn.functional.pad(torch.ones_like(ids), (left, right), value=0)
    with torch.no_grad():
        alone, within = model(ids).logits, model(padded, real).logits[:, left : left + 12]
    torch.testing.assert_close(within, alone, atol=2e-5, rtol=1e-5)


def test_logits_at_and_the_last_hidden_state_are_unshifted_too():
    model, ids = random_dream(), torch.randint(0, 57, (2, 10))
    full = model(ids)
    at = torch.tensor([[1, 4, 9], [0, 2, 3]])
    flags = torch.rand(2, 10) < 0.4
    wanted = full.logits.gather(1, at[..., None].expand(-1, -1, 60))
    torch.testing.assert_close(model(ids, logits_at=at).logits, wanted, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model(ids, logits_at=flags).logits, full.logits[flags])
    torch.testing.assert_close(model.head(full.last_hidden_state), full.logits)
    some = model(ids, logits_at=at, output_hidden_states=True)
    torch.testing.assert_close(some.logits, wanted, atol=1e-5, rtol=1e-5)


def test_gradient_checkpointing_keeps_gradients():
    ids = torch.randint(0, 57, (2, 10))
    plain, checkpointed = random_dream().train(), random_dream().train()
    checkpointed.gradient_checkpointing_enable()
    for model in (plain, checkpointed):
        model(ids).logits.logsumexp(-1).mean().backward()
    for a, b in zip(plain.parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_defaults_are_the_released_shape():
    config = DreamConfig()
    assert (config.vocab_size, config.mask_token_id, config.eos_token_id) == (152064, 151666, 151643)
    with torch.device("meta"):
        size = sum(p.numel() for p in DreamModel(config).parameters())
    assert round(size / 1e9, 2) == 7.62


def test_every_configuration_answers_to_the_same_names():
    names = "d_model n_heads n_kv_heads n_layers head_dim mlp_hidden_size embedding_size vocab_size rope_theta "
    names += "max_sequence_length rms_norm_eps init_std mask_token_id eos_token_id pad_token_id output_shift "
    names += "attention block_grid"
    for config in (LLaDAConfig(), DreamConfig(), LLaDAFields(), DreamFields()):
        for name in names.split():
            getattr(config, name)


@pytest.mark.parametrize("option,value", [("tie_word_embeddings", True), ("rope_scaling", {"factor": 4.0})])
def test_unsupported_options_are_refused_by_name(option, value):
    with pytest.raises(ValueError, match=option):
        DreamConfig(**{option: value})


def test_other_models_are_refused_in_one_line(folder, tmp_path):
    for fields, message in [
        ({"model_type": "qwen2"}, "model_type 'qwen2' is not one of llada, Dream"),
        ({"model_type": "magic", "auto_map": {"AutoConfig": "magic.Magic"}}, "model_type 'magic' is not one of"),
        ({"model_type": "Dream", "rope_scaling": {"factor": 2}}, "config.json cannot be used .*rope_scaling"),
        ({"model_type": "Dream", "hidden_size": "wide"}, "config.json cannot be used"),
    ]:
        (tmp_path / "config.json").write_text(json.dumps(SHAPE | {"mask_token_id": 3} | fields))
        (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
        with pytest.raises(CheckpointError, match=message) as caught:
            load_config(tmp_path)
        assert "\n" not in str(caught.value)


def test_the_tokenizer_needs_none_of_its_own_code(tmp_path):
    letters = {letter: i for i, letter in enumerate("abcdefgh")}
    (tmp_path / "vocab.json").write_text(json.dumps(letters | {"ab": 8, "<|endoftext|>": 9}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\n")
    special = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    fields = {
        "tokenizer_class": "DreamTokenizer",
        "auto_map": {"AutoTokenizer": ["tokenization_dream.DreamTokenizer", None]},
        "added_tokens_decoder": {
            str(i): {"content": content} | special
            for i, content in ((9, "<|endoftext|>"), (10, "<|im_start|>"), (11, "<|im_end|>"), (12, "<|mask|>"))
        },
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "mask_token": "<|mask|>",
        "chat_template": "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}",
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(fields))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer("abc<|mask|>")["input_ids"] == [8, 2, 12]
    assert (tokenizer.mask_token_id, tokenizer.eos_token_id) == (12, 9)
    assert end_ids(tokenizer) == (9, 11)
    text = tokenizer.apply_chat_template([{"role": "user", "content": "ab"}], tokenize=False)
    assert tokenizer(text)["input_ids"] == [10, 8, 11]
