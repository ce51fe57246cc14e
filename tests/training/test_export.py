"""A checkpoint of adapters becomes the student that training would write at that step."""

import pytest
import torch
from safetensors.torch import load_file

from cd4lm.config import build, dump
from cd4lm.model.loading import load_model
from cd4lm.settings import ExperimentConfig
from cd4lm.training.export import consolidate
from cd4lm.training.train import build_trainer, save_student
from tests.training.worlds import settings, write_teacher_and_data


@pytest.mark.parametrize("backbone,bf16", [("llada", False), ("llada", True), ("illada", True)])
def test_adapters_become_the_student_of_that_step(tmp_path, backbone, bf16):
    write_teacher_and_data(tmp_path, backbone)
    tree = settings(tmp_path, "run", max_steps=4, bf16=bf16) | {"lora": {"rank": 4}}
    run, out = build(ExperimentConfig, tree), tmp_path / "run"
    trainer = build_trainer(run, out)
    dump(run, out / "config.yaml")
    trainer.train()
    consolidate(out / "checkpoints/checkpoint-4", tmp_path / "merged")
    consolidate(out / "checkpoints/checkpoint-2", tmp_path / "earlier")
    save_student(trainer, run, out)  # removes the checkpoints
    folders = (out / "student", tmp_path / "merged", tmp_path / "earlier")
    student, merged, earlier = (load_file(folder / "model.safetensors") for folder in folders)
    assert merged.keys() == student.keys() and all(torch.equal(merged[key], student[key]) for key in student)
    assert any(not torch.equal(earlier[key], student[key]) for key in student)
    load_model(tmp_path / "merged", dtype=torch.float32)
