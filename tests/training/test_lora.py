"""Adapters: where they go, that the teacher is the base model, and that the merge is the student."""

import copy

import pytest
import torch

from cd4lm.config import build
from cd4lm.data.examples import AnswerCollator
from cd4lm.model import LLaDAModelLM
from cd4lm.settings import DSCDConfig, LoRAConfig
from cd4lm.training import lora
from cd4lm.training.consistency_loss import DSCDTrainer
from tests.conftest import random_model
from tests.training.test_trainer import examples, losses, trainer


def adapted(folder, config: LoRAConfig | None = None, **changes) -> DSCDTrainer:
    model = lora.add_adapters(random_model(), config or LoRAConfig(rank=4))
    return trainer(folder, model=model, teacher=None, **changes)


def batch() -> dict[str, torch.Tensor]:
    return AnswerCollator(pad_id=57)(examples()[:6])


def test_every_matrix_of_the_blocks_and_never_the_head():
    model = random_model()
    names = lora.target_names(model, LoRAConfig().targets)
    assert len(names) == 2 * 7 and "model.transformer.ff_out" not in names
    assert lora.target_names(model, ("ff_out",)) == [f"model.transformer.blocks.{i}.ff_out" for i in range(2)]
    assert len(lora.target_names(model, (".*_proj",))) == 2 * 5
    with_adapters = lora.add_adapters(model, LoRAConfig(rank=4, targets=("ff_out",)))
    trained = [name for name, p in with_adapters.named_parameters() if p.requires_grad]
    assert len(trained) == 2 * 2 and all(".blocks." in name and "lora_" in name for name in trained)


@pytest.mark.parametrize("pattern", ["o_proj", "gate_proj", "ff", "transformer.ff_out", "lm_head"])
def test_a_pattern_without_a_match_is_an_error_that_names_the_matrices(pattern):
    with pytest.raises(ValueError, match=rf"'{pattern}' matches no matrix.*attn_out") as caught:
        lora.target_names(random_model(), ("q_proj", pattern))
    assert "\n" not in str(caught.value)


def test_settings_out_of_range_are_named():
    for name, value in (("rank", 0), ("alpha", 0.0), ("targets", [])):
        with pytest.raises(ValueError, match=name):
            build(LoRAConfig, {name: value})


def test_the_teacher_is_the_base_model_and_only_adapters_train(tmp_path):
    run = adapted(tmp_path)
    base = copy.deepcopy(run.model.get_base_model().state_dict())
    run.train()
    after = run.model.get_base_model().state_dict()
    assert all(torch.equal(after[key], value) for key, value in base.items() if "lora_" not in key)
    inputs = {"input_ids": batch()["input_ids"], "attention_mask": batch()["attention_mask"]}
    run.model.eval()
    with torch.no_grad():
        alone = random_model()(**inputs).logits
        student = run.model(**inputs).logits
        with run.model.disable_adapter():
            assert torch.equal(run.model(**inputs).logits, alone)
    assert (student - alone).abs().max() > 0.01
    assert all(p.requires_grad for name, p in run.model.named_parameters() if "lora_" in name)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_loss_is_that_of_a_separate_teacher_with_the_same_weights(tmp_path, checkpointing):
    whole = trainer(tmp_path / "a", teacher=random_model(), max_steps=1)
    parts = adapted(
        tmp_path / "b",
        max_steps=1,
        gradient_checkpointing=checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if checkpointing else None,
    )
    whole.train()
    parts.train()
    for name in ("loss", "consistency", "reconstruction"):
        assert losses(parts, name) == pytest.approx(losses(whole, name), abs=1e-5)


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    whole = adapted(tmp_path)
    whole.train()
    resumed = adapted(tmp_path)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert losses(resumed) == pytest.approx(losses(whole), abs=1e-6)


def test_the_merged_student_is_the_adapted_one_in_the_released_layout(tmp_path):
    run = adapted(tmp_path, LoRAConfig(rank=4, alpha=64.0))
    run.train()
    inputs = {"input_ids": batch()["input_ids"], "attention_mask": batch()["attention_mask"]}
    with torch.no_grad():
        before = run.model.eval()(**inputs).logits
    merged, change = lora.merge_adapters(run.model, batch())
    assert change < lora.MERGE_TOLERANCE[torch.float32]
    assert set(merged.state_dict()) == set(random_model().state_dict())
    merged.save_pretrained(tmp_path / "student")
    with torch.no_grad():
        again = LLaDAModelLM.from_pretrained(tmp_path / "student").eval()(**inputs).logits
    torch.testing.assert_close(again, before, atol=1e-4, rtol=1e-4)


def test_a_merge_that_changes_the_logits_is_an_error(tmp_path, monkeypatch):
    run = adapted(tmp_path, LoRAConfig(rank=4, alpha=64.0))
    run.train()
    # A merge that forgets one matrix: what the comparison is there to catch.
    layer = next(m for name, m in run.model.named_modules() if name.endswith("blocks.0.ff_out"))
    monkeypatch.setattr(layer, "merge", lambda *_, **__: None)
    with pytest.raises(ArithmeticError, match="merging the adapters changed the logits"):
        lora.merge_adapters(run.model, batch())


def test_without_a_teacher_forward_at_lambda_zero(tmp_path):
    run = adapted(tmp_path, dscd=DSCDConfig(initial_lambda=0.0, final_lambda=0.0), max_steps=2)
    calls = []
    run.model.register_forward_hook(lambda *_: calls.append(1))
    run.train()
    assert len(calls) == 2
