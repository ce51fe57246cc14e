"""A loss or gradient that is not finite stops the run before the weights change, and the error says where."""

import math
import subprocess
import sys

import pytest
import torch

from tests.conftest import ROOT
from tests.training.test_trainer import trainer, weights


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
    ids = list(run._get_train_sampler())[2 * 4 : 3 * 4]  # three steps of four rows
    assert str(ids) in str(caught.value) and str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)
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


def train_on_two(folder: str, kind: str) -> None:
    """Train in one of two processes, with a loss of rank 1 or the gradient not finite at step 2."""
    run = trainer(folder, per_device_train_batch_size=2, ddp_backend="gloo", ddp_find_unused_parameters=False)
    if kind == "grad_norm":
        poison(run, gradient_at=(2,))
    elif run.args.process_index == 1:
        poison(run, loss_at=(2,))
    run.train()


@pytest.mark.slow
@pytest.mark.parametrize("kind,ranks", [("loss", "1"), ("grad_norm", "0, 1")])
def test_two_processes_name_the_rank_and_its_examples(tmp_path, kind, ranks):
    words = [sys.executable, "-m", "cd4lm.training.worker_group", "torch.distributed.run", "--standalone"]
    words += ["--nproc_per_node", "2", "-m", "tests.training.test_nonfinite", str(tmp_path), kind]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    ids = list(trainer(tmp_path / "one")._get_train_sampler())[4:8]  # two rows on each process
    ids = ids[2:] if ranks == "1" else ids
    assert len(errors) == 1 and done.returncode == 1, done.stderr
    assert f"{kind} is " in errors[0] and f"at step 2 on rank {ranks}, examples {ids}: lower the learning" in errors[0]


if __name__ == "__main__":
    from cd4lm.config import exit_with_message

    exit_with_message(lambda: train_on_two(*sys.argv[1:]))
