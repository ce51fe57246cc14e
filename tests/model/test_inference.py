"""Decoding without transformers: the same network, configuration and tokens as transformers' model of a checkpoint."""

import json
import shutil
import subprocess
import sys

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file

from cd4lm.data.tiny_tokenizer import build_tokenizer
from cd4lm.decoding import ConfidenceAdaptive, DecodeConfig, decode
from cd4lm.model import CheckpointError, LLaDAModelLM
from cd4lm.model.loading import load_config, load_for_inference, load_model, load_network
from cd4lm.model.pretrained import PretrainedLM, saved_config
from tests.conftest import BACKBONES, ROOT

TEACHER = ROOT / "checkpoints/tiny_teacher"
BLOCKS = {"attention": "block_causal", "block_length": 4}
# Imports of these names in a fresh process: what may come with them, and what may not.
DECODE = """
import sys
from cd4lm.data.examples import encode_prompt, end_ids
from cd4lm.decoding import ConfidenceAdaptive, DecodeConfig, decode
from cd4lm.model.loading import load_for_inference
import torch
model, tokenizer = load_for_inference(sys.argv[1])
ids = torch.tensor(encode_prompt(tokenizer, "tom has 7 apples . buys 3 . gives 2 . how many ?"))
config = DecodeConfig(mask_id=model.config.mask_token_id, eos_ids=end_ids(tokenizer), gen_length=40, block_length=20)
result = decode(model, [ids], ConfidenceAdaptive(threshold=0.95), config)
assert tokenizer.decode(result.tokens[0, : result.lengths[0]]).endswith("#### 8")
"""
SETTINGS = """
import sys, cd4lm.settings, cd4lm.config, cd4lm.decoding, cd4lm.model.loading, cd4lm.model.checkpoint
from cd4lm.model import CheckpointError, DiffusionConfig
"""


@pytest.fixture(params=[{}, BLOCKS], ids=["bidirectional", "block_causal"])
def attention(request) -> dict:
    return request.param


@pytest.fixture(params=list(BACKBONES))
def saved(request, attention, tmp_path):
    """A random model of each backbone and its checkpoint."""
    model = BACKBONES[request.param](**attention)
    model.save_pretrained(tmp_path / "saved")
    return model, tmp_path / "saved"


def test_the_same_logits_as_transformers_model(saved):
    model, folder = saved
    network = load_network(folder, torch.float32)
    assert not isinstance(network, PretrainedLM) and not network.training
    assert list(network.state_dict()) == list(model.state_dict())
    ids = torch.randint(0, 57, (2, 14))
    real = torch.ones_like(ids)
    real[0, :3] = 0
    for given in ({}, {"logits_at": torch.tensor([[1, 4], [9, 13]])}, {"output_hidden_states": True}):
        arguments = {"attention_mask": real, "prompt_length": torch.tensor([2, 5])} | given
        with torch.no_grad():
            wanted, found = model(ids, **arguments), network(ids, **arguments)
        for name, value in vars(found).items():
            torch.testing.assert_close(value, getattr(wanted, name), atol=0, rtol=0)


def test_the_reference_logits_of_the_published_model(reference):
    wanted = load_file(reference / "forward.safetensors")
    with torch.no_grad():
        output = load_network(reference)(wanted["input_ids"])
    torch.testing.assert_close(output.logits, wanted["logits"], atol=1e-4, rtol=0)
    torch.testing.assert_close(output.last_hidden_state, wanted["last_hidden"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
def test_the_engine_gives_the_same_tokens(reference, cache, prompts):
    config = DecodeConfig(mask_id=159, eos_ids=(151,), gen_length=32, block_length=8, temperature=0.5, cache=cache)
    loaded = (LLaDAModelLM.from_pretrained(reference).eval(), load_network(reference))
    one, other = (decode(model, prompts, ConfidenceAdaptive(threshold=0.3), config) for model in loaded)
    assert torch.equal(one.tokens, other.tokens) and one.commits == other.commits


def test_a_published_run(reference):
    case = next(c for c in json.loads((reference / "decoding.json").read_text()) if c["kind"] == "cad")
    limits = {"min_tokens": case["min_tokens_per_step"], "max_tokens": case["max_tokens_per_step"]}
    policy = ConfidenceAdaptive(case["confidence_threshold"], **limits)
    lengths = {name: case[name] for name in ("gen_length", "block_length")}
    hold = case.get("eos_threshold_ratio", 0.0)
    config = DecodeConfig(mask_id=159, eos_ids=(151,), **lengths, eos_hold_ratio=hold, stop_at_eos=False)
    result = decode(load_network(reference), [torch.tensor(case["prompt"])], policy, config)
    assert (result.tokens[0].tolist(), result.nfe.item()) == (case["output"], case["nfe"])


def test_the_configuration_keeps_every_field(saved):
    """The plain configuration becomes transformers' again, and its config.json the same text."""
    model, folder = saved
    config = load_config(folder)
    for name in ("d_model", "n_kv_heads", "embedding_size", "rope_theta", "init_std", "pad_token_id", "attention"):
        assert getattr(config, name) == getattr(model.config, name)
    assert saved_config(config).to_json_string() == (folder / "config.json").read_text()


def test_weights_in_shards(saved):
    model, folder = saved
    whole = load_network(folder, torch.float32).state_dict()
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="20KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    found = load_network(folder, torch.float32).state_dict()
    assert all(torch.equal(found[name], whole[name]) for name in whole)
    sorted(folder.glob("model-*.safetensors"))[0].unlink()
    with pytest.raises(CheckpointError, match=r"has no model-00001-of-\d+.safetensors"):
        load_network(folder)


def test_old_weights_files_are_read_by_transformers(tmp_path, model):
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    network = load_network(tmp_path)
    assert isinstance(network, LLaDAModelLM)
    assert torch.equal(network.head.__self__.embedding.weight, model.embedding.weight)


def test_the_dtype_asked_for():
    network, tokenizer = load_for_inference(TEACHER, torch.bfloat16)
    assert {weight.dtype for weight in network.parameters()} == {torch.bfloat16}
    stored = load_file(TEACHER / "model.safetensors")
    assert all(torch.equal(weight, stored[name]) for name, weight in network.state_dict().items())
    assert len(tokenizer) == network.config.vocab_size
    full = load_network(TEACHER, torch.float32).state_dict()
    again = load_model(TEACHER, dtype=torch.float32).state_dict()
    assert all(torch.equal(full[name], again[name]) for name in again)


class TestHubNames:
    NAME = "somebody/some-model"

    @pytest.fixture
    def hub(self, tmp_path, monkeypatch):
        """The hub's cache with one checkpoint in it, and no network."""
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
        stored = tmp_path / "models--somebody--some-model"
        (stored / "refs").mkdir(parents=True)
        (stored / "refs/main").write_text("0" * 40)
        shutil.copytree(TEACHER, stored / "snapshots" / ("0" * 40))

    def test_from_its_cache(self, hub):
        network, tokenizer = load_for_inference(self.NAME)
        assert network.config.d_model == load_config(self.NAME).d_model == 144
        assert tokenizer.name_or_path == self.NAME

    def test_one_that_cannot_be_downloaded(self, hub):
        with pytest.raises(
            CheckpointError, match="nobody/nothing is no folder here and cannot be downloaded"
        ) as caught:
            load_network("nobody/nothing")
        assert "\n" not in str(caught.value)


def imported(code: str, *words) -> set[str]:
    """The modules that a fresh process has imported after running the code."""
    code += "\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_decoding_imports_no_transformers():
    modules = imported(DECODE, str(TEACHER))
    assert "torch" in modules and not modules & {"transformers", "accelerate", "peft", "torch._dynamo"}


def test_settings_and_errors_import_no_torch():
    assert not imported(SETTINGS) & {"torch", "transformers"}


def test_a_checkpoint_without_a_tokenizer(saved):
    _, folder = saved
    with pytest.raises(CheckpointError, match="has no usable tokenizer"):
        load_for_inference(folder)
    build_tokenizer().save_pretrained(folder)
    assert load_for_inference(folder)[1].mask_token == "<|mdm_mask|>"


def test_a_broken_index_is_named(saved):
    _, folder = saved
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    save_file(weights, folder / "model-00001-of-00001.safetensors")
    (folder / "model.safetensors.index.json").write_text('{"weight_map"')
    with pytest.raises(CheckpointError, match="index.json is damaged"):
        load_network(folder)
