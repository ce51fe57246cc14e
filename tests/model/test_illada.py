"""iLLaDA against transformers' Llama with tied weights and a full mask, and its released layout."""

import copy
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import AutoConfig, AutoModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from cd4lm.decoding import ConfidenceAdaptive, DecodeConfig, decode
from cd4lm.model import CheckpointError, ILLaDAConfig, ILLaDAForCausalLM
from cd4lm.model.loading import load_config, load_model, load_network
from tests.conftest import random_illada

V, MASK = 90, 5
SHAPE = {
    "hidden_size": 48,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "num_hidden_layers": 3,
    "intermediate_size": 64,
    "vocab_size": V,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "initializer_range": 0.2,
}
# The other fields of a released config.json, without a mask token; the code that auto_map names is not there.
RELEASED = {
    "architectures": ["ILLaDAForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "auto_map": {"AutoConfig": "configuration_illada.ILLaDAConfig", "AutoModel": "modeling_illada.ILLaDAModel"},
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "layer_norm_eps": None,
    "mlp_bias": False,
    "model_type": "illada",
    "rope_scaling": None,
    "tie_word_embeddings": True,
    "torch_dtype": "float32",
    "transformers_version": "4.46.2",
    "use_cache": False,
}
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
INDEX = "model.safetensors.index.json"


def write_tokenizer(folder, mask: str | None = "<[MASK]>", eos: str = "</s>") -> None:
    """Tokenizer files of V words, which declare no mask token."""
    words = {f"w{i}": i for i in range(V)}
    for number, word in ((0, "<unk>"), (1, "<s>"), (2, eos), (MASK, mask)):
        if word is not None:
            del words[f"w{number}"]
            words[word] = number
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.add_special_tokens([word for word in ("<s>", eos, mask) if word is not None])
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=eos, pad_token=eos).save_pretrained(folder)


@pytest.fixture(scope="module", params=["eager", "sdpa"])
def llama(request) -> LlamaForCausalLM:
    torch.manual_seed(2)
    config = LlamaConfig(**SHAPE, tie_word_embeddings=True, attn_implementation=request.param)
    model = LlamaForCausalLM(config).eval()
    for name, parameter in model.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    return model


def write_checkpoint(folder, llama) -> None:
    """Llama's weights as a released iLLaDA checkpoint; transformers leaves the tied head out of it."""
    weights = {key: value.contiguous() for key, value in llama.state_dict().items() if key != HEAD}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(SHAPE | RELEASED))
    write_tokenizer(folder)


@pytest.fixture(scope="module")
def released(llama, tmp_path_factory):
    folder = tmp_path_factory.mktemp("illada")
    write_checkpoint(folder, llama)
    return folder


@pytest.fixture
def folder(released, tmp_path):
    return shutil.copytree(released, tmp_path / "model")


def edit(folder, **fields) -> None:
    """Set fields of config.json; None takes one away."""
    tree = json.loads((folder / "config.json").read_text()) | fields
    kept = {key: value for key, value in tree.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(kept))


class Compared:
    """Logits and gradients of both models on two rows, padded on either side, where the tokens are real."""

    def __init__(self, llama, folder, left: int, right: int):
        self.llama, self.folder = llama, folder
        generator = torch.Generator().manual_seed(left + 10 * right)
        self.ids = torch.randint(6, V, (2, 14 + left + right), generator=generator)
        self.real = torch.ones_like(self.ids)
        self.real[0, :left] = 0
        self.real[1, 14 + left :] = 0
        self.slope = torch.randn(int(self.real.sum()), V, generator=generator)  # of the loss, by logit

    def theirs(self, dtype: torch.dtype, *, stored: torch.dtype = torch.float32):
        """Of Llama's weights as a checkpoint in the dtype `stored` has them, computed in dtype."""
        llama = copy.deepcopy(self.llama).to(stored).to(dtype)
        hidden = (1.0 - self.real[:, None, None, :].to(dtype)) * torch.finfo(dtype).min  # (B, 1, 1, L), added to scores
        mask = hidden.expand(-1, 1, self.ids.shape[1], -1)  # every real token is seen by all
        places = (self.real.cumsum(dim=1) - 1).clamp(min=0)
        logits = llama(input_ids=self.ids, attention_mask=mask, position_ids=places).logits
        return self.backward(llama, logits)

    def ours(self, dtype: torch.dtype):
        model = load_model(self.folder, dtype=dtype)
        return self.backward(model, model(self.ids, self.real).logits)

    def backward(self, model, logits) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        logits = logits[self.real.bool()].float()
        (logits * self.slope).mean().backward()
        return logits.detach(), {name: p.grad.float() for name, p in model.named_parameters()}


@pytest.mark.parametrize("left,right", [(0, 0), (5, 0), (0, 4), (3, 2)])
def test_logits_and_gradients_are_those_of_llama(llama, released, left, right):
    compared = Compared(llama, released, left, right)
    wanted, slopes = compared.theirs(torch.float32)
    found, gradients = compared.ours(torch.float32)
    assert wanted.std() > 1
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)
    assert gradients.keys() == slopes.keys() and max(slope.abs().max() for slope in slopes.values()) > 0.01
    for name, slope in slopes.items():
        torch.testing.assert_close(gradients[name], slope, atol=1e-5, rtol=0, msg=lambda text, name=name: name + text)


@pytest.mark.parametrize("left,right", [(0, 0), (5, 0), (0, 4)])
def test_bfloat16_is_as_near_to_float32_as_llama_is(llama, released, left, right):
    """Rounding differs with the order of sums: errors of logits and gradients stay under 1.5 times Llama's own."""
    compared = Compared(llama, released, left, right)
    wanted, slopes = compared.theirs(torch.float32, stored=torch.bfloat16)
    rough, rough_slopes = compared.theirs(torch.bfloat16)
    found, gradients = compared.ours(torch.bfloat16)

    def error(some, exact) -> float:
        return ((some - exact).norm() / exact.norm()).item()

    assert 1e-4 < error(found, wanted) <= 1.5 * error(rough, wanted)
    both = [torch.cat([grads[name].flatten() for name in slopes]) for grads in (gradients, rough_slopes, slopes)]
    assert 1e-4 < error(both[0], both[2]) <= 1.5 * error(both[1], both[2])
