"""The trainer takes every backbone and attention: all it asks of a model is one set of names."""

import pytest

from cd4lm.settings import DSCDConfig
from tests.conftest import BACKBONES
from tests.training.test_trainer import trainer


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
