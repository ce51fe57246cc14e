"""What holds for every objective: its step is the pure loss on full logits, and what must not change a run."""

import pytest
import torch

from cd4lm.diffusion.losses import certainty_loss, masked_diffusion_loss, tad_distillation
from cd4lm.model.loading import load_config
from cd4lm.training.collect_trajectories import collect
from cd4lm.training.train import build_trainer, train
from tests.training.worlds import (
    ADAPTERS,
    BIDIRECTIONAL,
    CDLM,
    OBJECTIVES,
    PARTS,
    cdlm_config,
    objective_config,
    steps,
    write_teacher_and_data,
)

ABSOLUTE = {"block_causal": {"block_length": 8, "grid": "absolute"}}
NEW = ("dparallel", "d3llm", "tad")


@pytest.fixture(scope="module", params=["llada", "dream"])
def world(request, tmp_path_factory):
    """A folder with teacher, data, and paths on both grids."""
    folder = tmp_path_factory.mktemp(request.param)
    write_teacher_and_data(folder, request.param)
    collect(cdlm_config(folder, "run"))
    collect(cdlm_config(folder, "run", changes=ABSOLUTE | absolute_paths(folder)))
    return folder


def absolute_paths(folder) -> dict:
    return {"trajectories": CDLM["trajectories"] | {"dir": str(folder / "absolute_paths"), "grid": "absolute"}}


def trainer_and_batch(world, objective: str, changes: dict | None = None, rows: int = 4):
    """A trainer halfway through its run, and a batch."""
    run = objective_config(world, "unused", objective, changes=changes)
    trainer = build_trainer(run, world / "unused")
    trainer.state.max_steps, trainer.state.global_step = 6, 3
    trainer.model.train()
    return trainer, trainer.data_collator([trainer.train_dataset[i] for i in range(rows)])


def logits_of(model, batch, masked, at, of: str = "") -> torch.Tensor:
    """Logits (N, V) at the true positions of `at`, of the batch's rows with these masks."""
    x = batch[f"{of}input_ids"].masked_fill(masked, model.config.mask_token_id)
    return model(x, attention_mask=batch[f"{of}attention_mask"], prompt_length=batch[f"{of}prompt_length"]).logits[at]


def certainty_by_formula(trainer, batch) -> torch.Tensor:
    """Of dParallel and d3LLM: the loss of a state plus that of its complement."""
    first, second, later = trainer.states(batch)
    how = {"beta": 2.0, "temperature": 0.5}
    losses = [
        certainty_loss(logits_of(trainer.model, batch, of | later, of), batch["input_ids"], of, **how)
        for of in (first, second)
    ]
    return losses[0].total + losses[1].total


def tad_by_formula(trainer, batch) -> torch.Tensor:
    pair = trainer.states(batch)
    revealed = logits_of(trainer.model, batch, pair.masked, pair.committed)
    rest = logits_of(trainer.model, batch, pair.masked, pair.remaining)
    masked, S = torch.zeros_like(batch["teacher_answer"]), torch.zeros_like(batch["teacher_answer"])
    for row, (start, longer) in enumerate(zip(batch["prompt_length"], batch["teacher_prompt_length"], strict=True)):
        masked[row, longer : longer + 40] = pair.masked[row, start : start + 40]
        S[row, longer : longer + 40] = pair.remaining[row, start : start + 40]
    with torch.no_grad():
        target = logits_of(trainer.teacher, batch, masked, S, "teacher_")
    reconstruction = masked_diffusion_loss(revealed, batch["input_ids"], pair.committed)
    return reconstruction + tad_distillation(rest, target, pair.remaining)


FORMULA = {"dparallel": certainty_by_formula, "d3llm": certainty_by_formula, "tad": tad_by_formula}


@pytest.mark.parametrize("attention", ["bidirectional", "block_causal", "absolute"])
@pytest.mark.parametrize("objective", NEW)
def test_the_step_is_the_pure_loss_on_full_logits(world, objective, attention):
    """Value and gradient of every parameter."""
    changes = {"bidirectional": BIDIRECTIONAL, "block_causal": {}, "absolute": ABSOLUTE | absolute_paths(world)}
    trainer, batch = trainer_and_batch(world, objective, changes[attention])
    assert trainer.model.config.attention == attention.replace("absolute", "block_causal")
    found, expected = trainer.compute_loss(trainer.model, batch), FORMULA[objective](trainer, batch)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    parameters = list(trainer.model.parameters())
    gradients = [torch.autograd.grad(loss, parameters) for loss in (found, expected)]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)


def test_weights_mix_tads_two_losses(world):
    """At 0 a loss is not computed, and without distillation no teacher runs."""
    losses = []
    for weights in ((1.0, 0.0), (0.0, 1.0), (0.7, 0.3)):
        section = {"tad": dict(zip(("reconstruction", "distillation"), weights, strict=True)) | {"temperature": 2.0}}
        trainer, batch = trainer_and_batch(world, "tad", section)
        calls = []
        trainer.teacher.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        losses.append(trainer.compute_loss(trainer.model, batch))
        assert len(calls) == int(weights[1] > 0) and losses[-1] > 0
    torch.testing.assert_close(losses[2], 0.7 * losses[0] + 0.3 * losses[1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("objective", NEW)
def test_without_a_gradient_the_loss_is_the_same(world, objective):
    trainer, batch = trainer_and_batch(world, objective)
    with torch.no_grad():
        found = trainer.compute_loss(trainer.model, batch)
        torch.testing.assert_close(found, FORMULA[objective](trainer, batch), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("objective", [name for name in OBJECTIVES if name != "dscd"])
def test_accumulation_4x1_equals_1x4(world, objective):
    for name, shape in (
        ("whole", {"batch_size": 4, "accumulation": 1}),
        ("parts", {"batch_size": 1, "accumulation": 4}),
    ):
        train(objective_config(world, f"{objective}_{name}", objective, **shape))
    for key in ("loss", *PARTS[objective], "grad_norm"):
        values = [[step[key] for step in steps(world / f"{objective}_{name}")] for name in ("whole", "parts")]
        assert values[0] == pytest.approx(values[1], rel=1e-4, abs=2e-5), key
    assert load_config(world / f"{objective}_whole/student").attention == "block_causal"


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_adapters_learn_and_become_a_student(world, objective):
    """The teacher, where one runs, is the same weights with the adapters off, and they start at zero."""
    trainer, batch = trainer_and_batch(world, objective, ADAPTERS)
    whole, _ = trainer_and_batch(world, objective)
    assert trainer.teacher is None
    loss = trainer.compute_loss(trainer.model, batch)
    assert loss.item() == pytest.approx(whole.compute_loss(whole.model, batch).item(), rel=1e-4)
    loss.backward()
    trained = [p for p in trainer.model.parameters() if p.requires_grad]
    assert trained and any(p.grad.abs().sum() > 0 for p in trained)
    if objective not in ("dscd", "d3llm"):  # theirs are as dParallel's
        name = f"{objective}_lora"
        train(objective_config(world, name, objective, changes=ADAPTERS))
        assert load_config(world / name / "student").attention == "block_causal" and len(steps(world / name)) == 6


@pytest.mark.parametrize("objective", ["dscd", "cdlm", "tad"])
def test_dropout_is_off_wherever_a_model_is_a_target(world, objective):
    lora = {"lora": ADAPTERS["lora"] | {"dropout": 0.5}}
    trainer, batch = trainer_and_batch(world, objective, lora)
    for name, parameter in trainer.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)  # at zero nothing would be dropped
    targets = []

    def keep(module, inputs, output):
        if not torch.is_grad_enabled():
            targets.append(output.reduced.clone())

    trainer.model.get_base_model().register_forward_hook(keep)
    losses = [trainer.compute_loss(trainer.model, batch).item() for _ in range(2)]
    assert len(targets) == 2 and torch.equal(*targets) and losses[0] != losses[1]
    dropouts = [m for m in trainer.model.modules() if isinstance(m, torch.nn.Dropout)]
    assert dropouts and all(m.training and m.p == 0.5 for m in dropouts)


def test_d3llm_grows_and_says_so(world):
    trainer, batch = trainer_and_batch(world, "d3llm", BIDIRECTIONAL)
    seen = []
    for step in range(6):
        trainer.state.global_step = step
        first, second, _ = trainer.states(batch)
        n, k = (first | second).sum(dim=1), first.sum(dim=1)
        values = trainer.step_values()
        assert (n <= values["block_length"]).all() and torch.equal(k, (values["mask_ratio"] * n).ceil().long())
        seen.append((values["block_length"], round(values["mask_ratio"], 4)))
    assert seen == [(4, 0.0), (4, 0.1333), (6, 0.2667), (6, 0.4), (8, 0.5333), (8, 0.6667)]
    trainer.model.eval()
    assert trainer.progress() == (8, 0.8)  # evaluation compares over time


def test_tads_teacher_sees_the_answer_and_the_same_state(world):
    trainer, batch = trainer_and_batch(world, "tad")
    mask_id = trainer.mask_id
    pair = trainer.states(batch)
    carried = trainer.in_teachers_input(batch, pair.masked)
    student = batch["input_ids"].masked_fill(pair.masked, mask_id)
    teacher = batch["teacher_input_ids"].masked_fill(carried, mask_id)
    assert torch.equal(student[batch["answer"]], teacher[batch["teacher_answer"]])
    assert (batch["teacher_prompt_length"] > batch["prompt_length"] + 5).all()
    assert torch.equal(carried.sum(dim=1), pair.masked.sum(dim=1)) and not (carried & ~batch["teacher_answer"]).any()
