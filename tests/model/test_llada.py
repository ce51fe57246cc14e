"""The model against the published outputs, and the properties every caller relies on."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel

from cd4lm.model import CheckpointError, LLaDAConfig, LLaDAModelLM
from cd4lm.model.llada import LLaDABlock
from cd4lm.model.loading import load_network
from tests.conftest import random_model


def test_matches_published_outputs(reference):
    model = AutoModel.from_pretrained(reference)
    wanted = load_file(reference / "forward.safetensors")
    with torch.no_grad():
        output = model(wanted["input_ids"])
    assert isinstance(model, LLaDAModelLM)
    torch.testing.assert_close(output.logits, wanted["logits"], atol=1e-4, rtol=0)
    torch.testing.assert_close(output.last_hidden_state, wanted["last_hidden"], atol=1e-4, rtol=0)


def test_save_and_load_keep_keys_shapes_values_and_fields(reference, tmp_path):
    LLaDAModelLM.from_pretrained(reference).save_pretrained(tmp_path)
    before, after = load_file(reference / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    fields = json.loads((reference / "config.json").read_text())
    saved = json.loads((tmp_path / "config.json").read_text())
    changed = {key for key in fields if saved.get(key) != fields[key]}
    assert changed == {"transformers_version"}


@pytest.mark.parametrize("left,right", [(5, 0), (0, 4), (3, 2)])
def test_padding_on_either_side_changes_nothing(model, left, right):
    ids = torch.randint(0, 57, (2, 12))
    padded = torch.nn.functional.pad(ids, (left, right), value=7)
    attention_mask = torch.nn.functional.pad(torch.ones_like(ids), (left, right), value=0)
    with torch.no_grad():
        alone, within = model(ids).logits, model(padded, attention_mask).logits[:, left : left + 12]
    torch.testing.assert_close(within, alone, atol=2e-5, rtol=1e-5)


def test_attention_is_bidirectional(model):
    ids = torch.randint(0, 57, (1, 10))
    changed = ids.clone()
    changed[0, 9] = (ids[0, 9] + 1) % 57
    assert not torch.allclose(model(ids).logits[0, 0], model(changed).logits[0, 0])


def test_logits_at_chosen_rows_only(model):
    ids = torch.randint(0, 57, (2, 10))
    full = model(ids).logits
    at = torch.tensor([[1, 4, 9], [0, 2, 3]])
    torch.testing.assert_close(model(ids, logits_at=at).logits, full.gather(1, at[..., None].expand(-1, -1, 60)))
    flags = torch.rand(2, 10) < 0.4
    torch.testing.assert_close(model(ids, logits_at=flags).logits, full[flags])


def test_hidden_states_are_there_when_asked_for(model):
    output = model(torch.randint(0, 57, (2, 10)), output_hidden_states=True)
    assert [tuple(h.shape) for h in output.hidden_states] == [(2, 10, 32)] * 3
    torch.testing.assert_close(model.model.transformer["ln_f"](output.hidden_states[-1]), output.last_hidden_state)


def test_grouped_queries_equal_repeated_keys():
    grouped, full = random_model(n_kv_heads=2), random_model()
    weights = grouped.state_dict()
    for key in weights:
        if "k_proj" in key or "v_proj" in key:
            weights[key] = weights[key].view(2, 8, 32).repeat_interleave(2, dim=0).reshape(32, 32)
    full.load_state_dict(weights)
    ids = torch.randint(0, 57, (2, 10))
    torch.testing.assert_close(grouped(ids).logits, full(ids).logits, atol=1e-5, rtol=1e-5)


def test_gradient_checkpointing_recomputes_and_keeps_gradients(monkeypatch):
    """Each block runs once forward and once more backward; gradients and an evaluation stay as they are."""
    calls, compute = [], LLaDABlock.compute

    def counted(block, *arguments):
        calls.append(block)
        return compute(block, *arguments)

    ids = torch.randint(0, 57, (2, 10))
    plain, checkpointed = random_model().train(), random_model().train()
    plain(ids).logits.logsumexp(-1).mean().backward()
    checkpointed.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    monkeypatch.setattr(LLaDABlock, "compute", counted)
    loss = checkpointed(ids).logits.logsumexp(-1).mean()
    assert calls == [*checkpointed.blocks]
    loss.backward()
    assert calls == [*checkpointed.blocks, *reversed(checkpointed.blocks)]
    for a, b in zip(plain.parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=0, rtol=0)
    checkpointed.gradient_checkpointing_disable()
    checkpointed(ids).logits.mean().backward()
    assert len(calls) == 6


@pytest.mark.parametrize(
    "option,value", [("alibi", True), ("block_type", "sequential"), ("include_bias", True), ("weight_tying", True)]
)
def test_unsupported_options_are_refused_by_name(option, value):
    with pytest.raises(ValueError, match=option):
        LLaDAConfig(**{option: value})


def test_8b_defaults_are_the_released_shape():
    config = LLaDAConfig()
    assert (config.d_model, config.n_layers, config.n_kv_heads, config.embedding_size) == (4096, 32, 32, 126464)
    with torch.device("meta"):
        size = sum(p.numel() for p in LLaDAModelLM(LLaDAConfig(mlp_hidden_size=12288)).parameters())
    assert round(size / 1e9, 2) == 8.02


@pytest.fixture(params=[LLaDAModelLM.from_pretrained, load_network], ids=["transformers", "light"])
def loader(request):
    return request.param


class TestBrokenCheckpoints:
    @pytest.fixture(autouse=True)
    def loading(self, loader):
        self.load = loader

    @pytest.fixture
    def folder(self, reference, tmp_path):
        for name in ("config.json", "model.safetensors"):
            shutil.copy(reference / name, tmp_path / name)
        return tmp_path

    def refuse(self, folder, message):
        with pytest.raises(CheckpointError, match=message) as caught:
            self.load(folder)
        assert "\n" not in str(caught.value)

    def test_missing_folder(self, tmp_path):
        self.refuse(tmp_path / "nowhere", "does not exist")

    def test_no_config(self, folder):
        (folder / "config.json").unlink()
        self.refuse(folder, "no config.json")

    def test_no_weights(self, folder):
        (folder / "model.safetensors").unlink()
        self.refuse(folder, "no weights")

    def test_truncated_weights(self, folder):
        weights = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
        self.refuse(folder, "damaged or truncated")

    def edit(self, folder, change):
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors", {"format": "pt"})

    def test_missing_weight(self, folder):
        self.edit(folder, lambda w: w.pop("model.transformer.ln_f.weight"))
        self.refuse(folder, "missing.*ln_f")

    def test_unexpected_weight(self, folder):
        self.edit(folder, lambda w: w.update({"model.transformer.extra.weight": torch.ones(2)}))
        self.refuse(folder, "unexpected.*extra")

    def test_wrong_shape(self, folder):
        self.edit(folder, lambda w: w.update({"model.transformer.ln_f.weight": torch.ones(3)}))
        self.refuse(folder, "ln_f.weight has (another )?shape")


def test_auto_config_reads_the_released_file(reference):
    assert isinstance(AutoConfig.from_pretrained(reference), LLaDAConfig)
