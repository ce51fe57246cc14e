"""DSCDTrainer: what must not change a run, and what must."""

import copy
import json

import pytest
import torch
from transformers import TrainingArguments

from cd4lm.data.examples import AnswerCollator
from cd4lm.settings import DSCDConfig
from cd4lm.training.consistency_loss import DSCDTrainer, curriculum_lambda, dscd_loss
from cd4lm.training.trainer import IDLE_STEPS
from tests.conftest import random_model


def examples(count: int = 24) -> list[dict]:
    generator = torch.Generator().manual_seed(5)
    lengths = torch.randint(12, 30, (count,), generator=generator).tolist()
    rows = [torch.randint(0, 57, (n,), generator=generator).tolist() for n in lengths]
    return [{"example_id": i, "prompt": row[:4], "answer": row[4:]} for i, row in enumerate(rows)]


UNSET = object()


def trainer(
    folder,
    *,
    dscd: DSCDConfig | None = None,
    model=None,
    teacher=UNSET,
    group_by_length=False,
    **changes,
) -> DSCDTrainer:
    """A small trainer; its teacher is another random model unless one is given (None: the model's own adapters off)."""
    settings = {
        "max_steps": 6,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 1,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "linear",
        "logging_steps": 1,
        "save_steps": 2,
        "report_to": [],
        "remove_unused_columns": False,
        "label_names": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "seed": 11,
    }
    return DSCDTrainer(
        model or random_model(),
        TrainingArguments(output_dir=str(folder), **(settings | changes)),
        teacher=random_model(init_std=0.2) if teacher is UNSET else teacher,
        group_by_length=group_by_length,
        dscd=dscd or DSCDConfig(short_guards=False),
        train_dataset=examples(),
        eval_dataset=examples()[:8],
        data_collator=AnswerCollator(pad_id=57),
    )


def losses(run: DSCDTrainer, name: str = "loss") -> list[float]:
    return [entry[name] for entry in run.state.log_history if name in entry]


def weights(run: DSCDTrainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in run.model.parameters()])


@pytest.mark.parametrize("kl_positions", ["student", "teacher"])
def test_accumulation_4x1_equals_1x4(tmp_path, kl_positions):
    dscd = DSCDConfig(kl_positions=kl_positions)
    whole = trainer(tmp_path / "a", dscd=dscd)
    parts = trainer(tmp_path / "b", dscd=dscd, per_device_train_batch_size=1, gradient_accumulation_steps=4)
    whole.train()
    parts.train()
    torch.testing.assert_close(torch.tensor(losses(parts)), torch.tensor(losses(whole)), atol=1e-4, rtol=1e-4)
    for name in ("consistency", "reconstruction"):
        torch.testing.assert_close(
            torch.tensor(losses(parts, name)), torch.tensor(losses(whole, name)), atol=1e-4, rtol=1e-4
        )
    torch.testing.assert_close(weights(parts), weights(whole), atol=1e-3, rtol=1e-3)


def test_same_seed_same_run_and_other_seed_other_masks(tmp_path):
    runs = [trainer(tmp_path / str(i), seed=seed, data_seed=1) for i, seed in enumerate((11, 11, 12))]
    for run in runs:
        run.train()
    assert losses(runs[0]) == losses(runs[1])
    assert torch.equal(weights(runs[0]), weights(runs[1]))
    assert losses(runs[0]) != losses(runs[2])


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    whole = trainer(tmp_path / "whole")
    whole.train()
    resumed = trainer(tmp_path / "whole")
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole/checkpoint-4"))
    assert losses(resumed) == pytest.approx(losses(whole), abs=1e-6)
    torch.testing.assert_close(weights(resumed), weights(whole), atol=1e-6, rtol=1e-6)


def test_parts_and_lambda_are_logged_once_per_step(tmp_path):
    run = trainer(tmp_path, per_device_train_batch_size=2, gradient_accumulation_steps=2)
    run.train()
    lambdas = losses(run, "lambda")
    assert lambdas == [curriculum_lambda(step, 6) for step in range(6)]
    for entry in run.state.log_history:
        if "loss" in entry:
            mix = entry["lambda"] * entry["consistency"] + (1 - entry["lambda"]) * entry["reconstruction"]
            assert entry["loss"] == pytest.approx(mix, rel=1e-3)


def test_evaluation_loss_is_comparable_over_time(tmp_path):
    run = trainer(tmp_path)
    first = run.evaluate()["eval_loss"]
    run.state.global_step, run.state.max_steps = 5, 6
    assert run.evaluate()["eval_loss"] == pytest.approx(first, abs=1e-7)


def test_the_teacher_is_frozen_and_the_student_learns(tmp_path):
    run = trainer(tmp_path, max_steps=30)
    before = copy.deepcopy(run.teacher.state_dict())
    run.train()
    assert all(torch.equal(before[key], value) for key, value in run.teacher.state_dict().items())
    for name in ("consistency", "reconstruction"):  # the total mixes them by a lambda that moves
        values = losses(run, name)
        assert sum(values[-5:]) < 0.9 * sum(values[:5])


def test_prompt_and_padding_are_never_masked(tmp_path):
    run = trainer(tmp_path)
    batch = AnswerCollator(pad_id=57)(examples())
    for kind in ("nested", "independent", "block"):
        run.dscd = DSCDConfig(masks=kind)
        for masks in run.masks(batch, 3):
            assert not (masks & ~batch["answer"]).any()


def test_kl_positions_divide_the_student_mask(tmp_path):
    run = trainer(tmp_path)
    _, teacher, scored = run.masks(AnswerCollator(pad_id=57)(examples()), 0)
    at = {}
    for kind in ("student", "teacher", "visible"):
        run.dscd = DSCDConfig(kl_positions=kind)
        at[kind] = run.consistency_at(teacher, scored)
    assert torch.equal(at["teacher"] | at["visible"], at["student"])
    assert not (at["teacher"] & at["visible"]).any()


def test_a_run_that_learns_nothing_says_so(tmp_path, capsys):
    trainer(tmp_path, max_steps=IDLE_STEPS, dscd=DSCDConfig(clamp=1e-3)).train()
    assert "the gradient has been exactly 0 for 10 steps: nothing is learnt" in capsys.readouterr().err


def test_the_published_clamp_stops_the_gradient_above_it(tmp_path):
    run = trainer(tmp_path, dscd=DSCDConfig(clamp=1e-3, initial_lambda=0.0, final_lambda=0.0), weight_decay=0.0)
    before = weights(run).clone()
    run.train()
    assert torch.equal(weights(run), before)
    assert losses(run, "reconstruction") == pytest.approx([1e-3] * 6)


def test_without_a_teacher_forward_at_lambda_zero(tmp_path):
    run = trainer(tmp_path, dscd=DSCDConfig(initial_lambda=0.0, final_lambda=0.0))
    calls = []
    run.teacher.register_forward_hook(lambda *_: calls.append(1))
    run.train()
    assert not calls


ABLATIONS = [
    {},
    {"temperature": 1.0},
    {"initial_lambda": 0.0, "final_lambda": 0.0},
    {"initial_lambda": 1.0, "final_lambda": 1.0},
    {"clamp": 1.0},
    {"clamp": 50.0},
    {"kl_positions": "student"},
    {"kl_positions": "visible"},
    {"masks": "independent"},
    {"masks": "block", "block_length": 8},
    {"loss_chunk": 3},
]


@pytest.mark.parametrize("options", ABLATIONS, ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_the_step_is_dscd_loss_on_full_logits(tmp_path, options, training):
    """Value and gradient of every parameter, for every ablation option."""
    run = trainer(tmp_path, dscd=DSCDConfig(**options))
    run.state.max_steps, run.state.global_step = 6, 3
    run.model.train(training)
    batch = AnswerCollator(pad_id=57)(examples()[:6])
    found = run.compute_loss(run.model, batch)
    parameters = list(run.model.parameters())
    gradients = torch.autograd.grad(found, parameters)

    student_masked, teacher_masked, scored = run.masks(batch, 3 if training else -1)
    logits = [
        model(batch["input_ids"].masked_fill(masked, 59), batch["attention_mask"]).logits
        for model, masked in ((run.model, student_masked), (run.teacher, teacher_masked))
    ]
    expected = dscd_loss(
        *logits,
        batch["input_ids"].masked_fill(~scored, -100),
        temperature=run.dscd.temperature,
        weight=run.weight(),
        clamp=run.dscd.clamp,
        consistency_at=run.consistency_at(teacher_masked, scored),
    ).total
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    for a, b in zip(gradients, torch.autograd.grad(expected, parameters), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_lambda_follows_its_schedule_and_is_the_final_one_in_evaluation(tmp_path):
    run = trainer(tmp_path, dscd=DSCDConfig(initial_lambda=0.8, final_lambda=0.2))
    run.state.max_steps, run.state.global_step = 10, 9
    assert run.weight() == pytest.approx(0.2)  # not training: the final one
    run.model.train()
    assert 0.2 < run.weight() < 0.3
    run.dscd = DSCDConfig(initial_lambda=0.8, final_lambda=0.8)
    assert run.weight() == 0.8
    assert run.model.eval() is run.model and run.weight() == 0.8


def test_log_is_json(tmp_path):
    run = trainer(tmp_path)
    run.train()
    json.dumps(run.state.log_history)
