"""A loss or gradient that is not finite stops the run with what is needed to look at it, or is skipped and counted."""

import json
import math

import pytest
import torch

from cd4lm.training.nonfinite import example_losses
from cd4lm.training.trainer import SKIPPED
from tests.training.test_trainer import losses, trainer, weights


def poison(run, *, loss_at: tuple[int, ...] = (), gradient_at: tuple[int, ...] = ()) -> None:
    """Make the losses or the gradients of some steps (from 1) infinite or NaN."""
    compute = run.compute_loss

    def poisoned(model, inputs, return_outputs=False, num_items_in_batch=None):
        loss = compute(model, inputs, return_outputs, num_items_in_batch)
        step = run.state.global_step + 1
        return loss * (math.inf if step in loss_at and model.training else 1)

    run.compute_loss = poisoned
    head = run.model.get_output_embeddings().weight
    head.register_hook(lambda g: g * (math.nan if run.state.global_step + 1 in gradient_at else 1))


@pytest.mark.parametrize("kind", ["loss", "grad_norm"])
def test_the_run_stops_at_the_step_and_says_where(tmp_path, kind):
    run = trainer(tmp_path, logging_steps=100, logging_nan_inf_filter=False)
    poison(run, **({"loss_at": (3,)} if kind == "loss" else {"gradient_at": (3,)}))
    with pytest.raises(FloatingPointError, match=rf"{kind} is (inf|nan) at step 3 on rank 0, examples \[") as caught:
        run.train()
    saved = torch.load(tmp_path / "nonfinite/step-3-rank-0.pt", weights_only=True)
    ids = saved["batches"][0]["example_id"].tolist()
    assert len(ids) == 4 and str(ids) in str(caught.value) and str(tmp_path / "nonfinite") in str(caught.value)
    assert run.state.global_step == 2


def test_the_weights_are_those_before_the_step(tmp_path):
    two = trainer(tmp_path / "a", max_steps=6)
    poison(two, gradient_at=(3,))
    with pytest.raises(FloatingPointError):
        two.train()
    whole = trainer(tmp_path / "b", save_steps=2)
    whole.train()
    whole._load_from_checkpoint(str(tmp_path / "b/checkpoint-2"))
    assert torch.equal(weights(two), weights(whole))


@pytest.mark.parametrize("batch", [(4, 1), (2, 2)])
def test_the_reproducer_gives_the_loss_of_the_step(tmp_path, batch):
    size, accumulation = batch
    run = trainer(tmp_path / "run", per_device_train_batch_size=size, gradient_accumulation_steps=accumulation)
    poison(run, gradient_at=(5,))
    with pytest.raises(FloatingPointError):
        run.train()
    saved = torch.load(tmp_path / "run/nonfinite/step-5-rank-0.pt", weights_only=True)
    fresh = trainer(tmp_path / "fresh")
    fresh._load_from_checkpoint(str(tmp_path / "run/checkpoint-4"))
    records = example_losses(fresh, saved)
    assert len(records) == 4
    assert sum(record["loss"] for record in records) == pytest.approx(saved["losses"][0], rel=1e-5)


def test_skipped_steps_change_nothing_and_are_counted(tmp_path, capsys):
    run = trainer(tmp_path, max_skipped_steps=2, weight_decay=0.1)
    poison(run, loss_at=(2,), gradient_at=(4,))
    seen = []
    run.add_callback(seen_weights(run, seen))
    run.train()
    assert torch.equal(seen[0], seen[1]) and torch.equal(seen[2], seen[3])
    assert not torch.equal(seen[1], seen[2]) and not torch.equal(seen[3], seen[4])
    assert losses(run, SKIPPED) == [1, 2]
    assert "step 4 skipped (grad_norm is nan): 2 of 2 allowed" in capsys.readouterr().err
    log = [json.loads(line) for line in (tmp_path / "training_log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log if "loss" in entry] == [1, 3, 5, 6]
    assert all(math.isfinite(value) for value in losses(run))


def seen_weights(run, seen: list):
    from transformers import TrainerCallback

    class Seen(TrainerCallback):
        def on_step_end(self, *_, **__):
            seen.append(weights(run).clone())

    return Seen()


def test_one_more_than_allowed_stops(tmp_path):
    run = trainer(tmp_path, max_skipped_steps=1)
    poison(run, loss_at=(2, 4))
    with pytest.raises(FloatingPointError, match="loss is inf at step 4"):
        run.train()


def test_skips_before_a_resume_count(tmp_path):
    run = trainer(tmp_path, max_skipped_steps=1)
    poison(run, loss_at=(1, 5))
    with pytest.raises(FloatingPointError, match="step 5"):
        run.train()
    again = trainer(tmp_path, max_skipped_steps=1)
    poison(again, loss_at=(6,))
    with pytest.raises(FloatingPointError, match="step 6"):
        again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
