"""The trainers take every backbone and attention: all they ask of a model is one set of names.

iLLaDA's head is its embedding: the losses, resuming, adapters and the export see one matrix.
"""

import logging

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from cd4lm.config import build, dump
from cd4lm.diffusion.losses import dscd_loss
from cd4lm.model.loading import load_model
from cd4lm.settings import DSCDConfig, ExperimentConfig
from cd4lm.training import lora
from cd4lm.training.chunked_loss import Rows, chunked_dscd_loss
from cd4lm.training.train import build_trainer, train
from tests.conftest import BACKBONES, random_illada
from tests.training.test_trainer import trainer
from tests.training.worlds import LOSSES, settings, steps, write_teacher_and_data

EMBEDDING = "model.embed_tokens.weight"


@pytest.mark.parametrize(
    "backbone,attention",
    [
        ("dream", {}),
        ("illada", {}),
        ("dream", {"attention": "block_causal", "block_length": 4, "block_grid": "absolute"}),
        ("illada", {"attention": "block_causal", "block_length": 4, "block_grid": "absolute"}),
        ("llada", {"attention": "block_causal", "block_length": 4, "block_grid": "absolute"}),
    ],
)
def test_a_student_of_another_kind_learns(tmp_path, backbone, attention):
    plain = DSCDConfig(initial_lambda=0.0, final_lambda=0.0, short_guards=False)
    settings = {"max_steps": 40, "save_steps": 40, "learning_rate": 3e-3}
    run = trainer(tmp_path, model=BACKBONES[backbone](**attention), dscd=plain, **settings)
    before = run.evaluate()["eval_loss"]
    run.train()
    assert run.evaluate()["eval_loss"] < before - 0.3  # nats; random tokens leave little to learn


@pytest.mark.parametrize("backbone", list(BACKBONES))
def test_without_names_every_matrix_of_the_blocks_is_adapted_and_nothing_else(backbone):
    model = BACKBONES[backbone]()
    inside = {name for name, module in model.blocks.named_modules() if isinstance(module, torch.nn.Linear)}
    names = lora.target_names(model, None)
    assert len(names) == len(inside) == 2 * 7
    assert all(any(name.endswith(f".{short}") for short in inside) for name in names)


def test_the_gradient_of_a_tied_matrix_is_that_of_both_uses():
    """Without the logits tensor it is what the pure loss on all logits gives."""
    model, teacher = random_illada(), random_illada(initializer_range=0.2)
    x, labels = torch.randint(0, 57, (2, 12)), torch.randint(0, 57, (2, 12))
    at = torch.rand(2, 12) < 0.6
    with torch.no_grad():
        h_t, head_t = teacher(x, logits_at=at, reduce=lambda *rows: rows).reduced
    dscd = {"weight": 0.7, "temperature": 2.0}

    def chunked(hidden, head):
        return chunked_dscd_loss(Rows(hidden, head), Rows(h_t, head_t), labels[at], chunk=3, **dscd).total

    gradients = []
    for loss in (
        lambda: model(x, logits_at=at, reduce=chunked).reduced,
        lambda: dscd_loss(model(x).logits, teacher(x).logits, labels.masked_fill(~at, -100), **dscd).total,
    ):
        model.zero_grad()
        loss().backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})
    assert (gradients[0][EMBEDDING].abs().sum(dim=1) > 0).all()  # tokens that are not in x too: the head's part
    for name, slope in gradients[1].items():
        torch.testing.assert_close(gradients[0][name], slope, atol=1e-6, rtol=1e-4)


class StopAfter(TrainerCallback):
    """Ends a run after a step, as if it had been interrupted there."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == self.step


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("illada")
    write_teacher_and_data(folder, "illada")
    return folder


@pytest.mark.parametrize("changes", [{}, {"lora": {"rank": 4}}], ids=["whole", "lora"])
def test_a_resumed_run_of_a_tied_student_equals_an_uninterrupted_one(world, changes, caplog, monkeypatch):
    runs = {
        name: build(ExperimentConfig, settings(world, f"{name}{len(changes)}") | changes) for name in ("whole", "cut")
    }
    out = world / f"cut{len(changes)}"
    train(runs["whole"])
    cut = build_trainer(runs["cut"], out)
    cut.add_callback(StopAfter(4))
    dump(runs["cut"], out / "config.yaml")
    cut.train()
    assert (out / "checkpoints/checkpoint-4").is_dir()
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    train(runs["cut"])
    assert not any("missing keys" in record.message for record in caplog.records)
    folders = [world / f"{name}{len(changes)}" for name in ("whole", "cut")]
    whole, resumed = (steps(folder) for folder in folders)
    for key in LOSSES:
        assert [step[key] for step in resumed] == [step[key] for step in whole], key
    wanted, found = (load_file(folder / "student/model.safetensors") for folder in folders)
    teacher = load_file(world / "teacher/model.safetensors")
    assert wanted.keys() == found.keys() == teacher.keys() and "lm_head.weight" not in wanted
    assert all(torch.equal(wanted[key], found[key]) for key in wanted)
    assert torch.equal(wanted[EMBEDDING], teacher[EMBEDDING]) == ("lora" in changes)
    q = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(wanted[q], teacher[q])
    student = load_model(folders[0] / "student", dtype=torch.float32)
    assert student.lm_head.weight is student.model.embed_tokens.weight
