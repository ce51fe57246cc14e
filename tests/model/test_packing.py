"""The head's weight in oneDNN's order: the same logits up to the order of sums, for a while or for good."""

import pytest
import torch

from cd4lm.decoding import ConfidenceAdaptive, DecodeConfig, decode
from cd4lm.model.packing import pack_head, packed_head
from tests.conftest import random_dream, random_illada, random_model

BACKBONES = {"llada": random_model, "dream": random_dream, "illada": random_illada}


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("rows", [1, 7, 32, 300])
def test_logits_differ_by_rounding_only(backbone, rows):
    model = BACKBONES[backbone]()
    ids = torch.randint(0, 57, (1, rows))
    with torch.inference_mode():
        wanted = model(input_ids=ids).logits
        with packed_head(model):
            found = model(input_ids=ids).logits
            some = model(input_ids=ids, logits_at=torch.arange(rows)[None]).logits
        again = model(input_ids=ids).logits
    assert torch.allclose(found, wanted, atol=1e-5 * wanted.abs().max()) and torch.allclose(some, found, atol=1e-4)
    assert torch.equal(again, wanted)


def test_answers_are_the_same_where_no_two_tokens_are_nearly_equal(prompts):
    model = random_model()
    config = DecodeConfig(mask_id=59, eos_ids=(57,), gen_length=16, block_length=8)
    wanted = decode(model, prompts, ConfidenceAdaptive(threshold=0.5), config)
    pack_head(model, rows=8)
    found = decode(model, prompts, ConfidenceAdaptive(threshold=0.5), config)
    assert torch.equal(found.tokens, wanted.tokens) and found.commits == wanted.commits


def test_other_weights_are_refused():
    with pytest.raises(ValueError, match="packing the head is for float32 on a CPU, not torch.bfloat16 on cpu"):
        pack_head(random_model().bfloat16())
