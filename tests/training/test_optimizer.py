"""MuonAdamW: which parameter goes where, and that one state dict restores both parts."""

import copy

import torch

from cd4lm.training.optimizer import MuonAdamW
from tests.conftest import random_model


def step(model, optimizer):
    model(torch.arange(10)[None]).logits.logsumexp(-1).mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_every_parameter_is_in_one_part():
    model = random_model()
    optimizer = MuonAdamW(model, muon_lr=0.02, adamw_lr=0.003)
    muon, adamw = ([id(p) for group in part.param_groups for p in group["params"]] for part in optimizer.parts)
    assert sorted(muon + adamw) == sorted(id(p) for p in model.parameters())
    assert len(muon) == 2 * 7  # seven matrices in each of two blocks
    assert id(model.get_output_embeddings().weight) in adamw


def test_state_restores_both_parts():
    model = random_model()
    optimizer = MuonAdamW(model, muon_lr=0.02, adamw_lr=0.003)
    step(model, optimizer)
    saved, weights = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(model.state_dict())
    step(model, optimizer)
    other = random_model()
    other.load_state_dict(weights)
    restored = MuonAdamW(other, muon_lr=0.5, adamw_lr=0.5)
    restored.load_state_dict(saved)
    step(other, restored)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_a_scheduler_reaches_both_parts():
    optimizer = MuonAdamW(random_model(), muon_lr=0.02, adamw_lr=0.003)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5)
    assert [part.param_groups[0]["lr"] for part in optimizer.parts] == [0.01, 0.0015]
    assert scheduler.get_last_lr() == [0.01, 0.0015]
