"""iLLaDA against transformers' Llama with tied weights and a full mask."""

import copy

import pytest
import torch

from cd4lm.decoding import ConfidenceAdaptive, DecodeConfig, decode
from cd4lm.model import ILLaDAConfig, ILLaDAForCausalLM
from cd4lm.model.loading import load_model, load_network
from tests.conftest import random_illada
from tests.model.illada_folder import MASK, V, random_llama, write_checkpoint


@pytest.fixture(scope="module", params=["eager", "sdpa"])
def llama(request):
    return random_llama(request.param)


@pytest.fixture(scope="module")
def released(llama, tmp_path_factory):
    folder = tmp_path_factory.mktemp("illada")
    write_checkpoint(folder, llama)
    return folder


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


@pytest.mark.parametrize("left,right", [(5, 0), (0, 4), (3, 2)])
def test_padding_on_either_side_changes_nothing(left, right):
    model, ids = random_illada(), torch.randint(0, 57, (2, 12))
    padded = torch.nn.functional.pad(ids, (left, right), value=7)
    real = torch.nn.functional.pad(torch.ones_like(ids), (left, right), value=0)
    with torch.no_grad():
        alone, within = model(ids).logits, model(padded, real).logits[:, left : left + 12]
    torch.testing.assert_close(within, alone, atol=2e-5, rtol=1e-5)


def test_the_engine_decodes_a_released_folder(released):
    network, policy = load_network(released, torch.float32), ConfidenceAdaptive(threshold=0.3)
    config = DecodeConfig(mask_id=network.config.mask_token_id, eos_ids=(2,), gen_length=16, block_length=8)
    result = decode(network, [torch.arange(8, 17), torch.arange(20, 24)], policy, config)
    assert not (result.tokens == MASK).any() and (result.nfe > 0).all()


def test_defaults_are_the_released_shape():
    config = ILLaDAConfig()
    assert (config.d_model, config.n_layers, config.n_kv_heads, config.vocab_size) == (4096, 32, 8, 155136)
    assert config.mask_token_id is None  # never a guess
    with torch.device("meta"):
        model = ILLaDAForCausalLM(config)
    per_block = 2 * 4096**2 + 2 * 4096 * 1024 + 3 * 4096 * 14336 + 2 * 4096
    assert model.num_parameters() == 155136 * 4096 + 32 * per_block + 4096
