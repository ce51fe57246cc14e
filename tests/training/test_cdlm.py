"""CDLMTrainer: each loss alone, what must not change a run, and what a student becomes."""

import dataclasses

import pytest
import torch
from safetensors.torch import load_file

from cd4lm.config import ConfigError, dump
from cd4lm.data.trajectories import shard_file
from cd4lm.diffusion.losses import cdlm_consistency, cdlm_distillation, masked_diffusion_loss
from cd4lm.model.loading import load_config, load_model
from cd4lm.settings import CDLMConfig, LoRAConfig
from cd4lm.training.cdlm import PARTS
from cd4lm.training.collect_trajectories import collect
from cd4lm.training.export import consolidate
from cd4lm.training.train import build_trainer, train
from tests.conftest import BACKBONES
from tests.training.worlds import CDLM, cdlm_config, config, write_teacher_and_data

ONLY = {name: {other: float(other == name) for other in PARTS} for name in PARTS}


@pytest.fixture(scope="module", params=list(BACKBONES))
def world(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    write_teacher_and_data(folder, request.param)
    collect(cdlm_config(folder, "run"))
    return folder


def trainer_and_batch(world, **cdlm):
    """A trainer that has taken no step, and a batch of four paths."""
    trainer = build_trainer(cdlm_config(world, "unused", changes={"cdlm": cdlm}), world / "unused")
    trainer.state.max_steps = 6
    trainer.model.train()
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(4)])
    return trainer, batch


def gradient(trainer) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None])


def loss_and_gradient(world, **cdlm):
    trainer, batch = trainer_and_batch(world, **cdlm)
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    return loss.item(), gradient(trainer)


@pytest.mark.parametrize("reach", ["later", "block"])
def test_weights_mix_the_three_losses(world, reach):
    weights = {"distillation": 0.7, "consistency": 0.5, "denoising": 0.2}
    mixed, slope = loss_and_gradient(world, **weights, consistency_reach=reach)
    alone = {name: loss_and_gradient(world, **ONLY[name], consistency_reach=reach) for name in PARTS}
    assert all(loss > 0 for loss, _ in alone.values())
    assert mixed == pytest.approx(sum(weights[name] * alone[name][0] for name in PARTS), rel=1e-4)
    torch.testing.assert_close(slope, sum(weights[name] * alone[name][1] for name in PARTS), atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("name", PARTS)
def test_each_loss_is_the_pure_one_on_full_logits(world, name):
    trainer, batch = trainer_and_batch(world, **ONLY[name])
    found = trainer.compute_loss(trainer.model, batch).item()
    pair, noise = trainer.states(batch)
    mask, model = trainer.mask_id, trainer.model

    def logits(of: str, masked, at):
        x = batch[f"{of}input_ids"].masked_fill(masked, mask)
        context = {"attention_mask": batch[f"{of}attention_mask"], "prompt_length": batch["prompt_length"]}
        return model(x, **context).logits[at]

    if name == "denoising":
        expected = masked_diffusion_loss(logits("truth_", noise, noise), batch["truth_input_ids"], noise)
    elif name == "consistency":
        S = pair.remaining
        expected = cdlm_consistency(logits("", pair.masked, S), logits("", pair.later_masked, S), S)
    else:
        U = pair.committed
        stored = batch["hidden"][U[batch["answer"]].view(len(U), -1)]
        teacher = load_model(world / "teacher", dtype=torch.float32)
        expected = cdlm_distillation(logits("", pair.masked, U), teacher.head(stored), U)
    assert found == pytest.approx(expected.item(), rel=1e-4)


def test_the_student_is_block_causal_and_says_so(world):
    if not (world / "whole/student").exists():
        train(cdlm_config(world, "whole", batch_size=4, accumulation=1))
    saved = load_config(world / "whole/student")
    assert (saved.attention, saved.block_length, saved.block_grid) == ("block_causal", 8, "answer")
    assert load_config(world / "teacher").attention == "bidirectional"


def test_dscd_under_the_block_causal_mask_and_a_warm_start(world):
    """The combination: the teacher stays bidirectional, also where it is the student with its adapters off."""
    dscd = {"cdlm": None}
    cold = build_trainer(cdlm_config(world, "cold", changes=dscd), world / "cold")
    lora = dscd | {"lora": vars(LoRAConfig()) | {"targets": [".*proj"], "rank": 4}}
    shared = build_trainer(cdlm_config(world, "shared", changes=lora), world / "shared")
    losses = []
    for trainer in (cold, shared):
        trainer.state.max_steps = 6
        trainer.model.train()
        batch = trainer.data_collator([trainer.train_dataset[i] for i in range(4)])
        losses.append(trainer.compute_loss(trainer.model, batch).item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)  # adapters start as zero
    bidirectional = build_trainer(config(world, "plain"), world / "plain")
    assert cold.model.config.attention == "block_causal" and bidirectional.model.config.attention == "bidirectional"
    if not (world / "whole/student").exists():
        train(cdlm_config(world, "whole", batch_size=4, accumulation=1))
    student = str(world / "whole/student")
    warm = build_trainer(cdlm_config(world, "warm", changes=dscd | {"init_from": student}), world / "warm")
    a = load_model(student, dtype=torch.float32).state_dict()
    assert all(torch.equal(a[key], value) for key, value in warm.model.state_dict().items())
    with pytest.raises(ValueError, match="has blocks of 8 on the grid 'answer', but block_causal asks for 20"):
        changes = dscd | {"init_from": student, "block_causal": {"block_length": 20}, "trajectories": None}
        build_trainer(cdlm_config(world, "warm", changes=changes), world / "warm")


def test_the_absolute_grid(world):
    """Recorded, trained and exported on one grid; paths on the other are refused, DSCD needs none."""
    grid = {"block_causal": {"block_length": 8, "grid": "absolute"}}
    with pytest.raises(ConfigError, match="block_causal.grid=absolute but trajectories.grid=answer"):
        cdlm_config(world, "absolute", changes=grid)
    trainer = build_trainer(cdlm_config(world, "absolute", changes=grid | {"cdlm": None}), world / "absolute")
    assert trainer.model.config.block_grid == "absolute"

    own = CDLM["trajectories"] | {"dir": str(world / "absolute_paths"), "grid": "absolute"}
    both = cdlm_config(world, "absolute", changes=grid | {"trajectories": own}, max_steps=2)
    elsewhere = own | {"dir": str(world / "paths")}
    with pytest.raises(ValueError, match="grid is answer, not absolute"):
        build_trainer(cdlm_config(world, "absolute", changes=grid | {"trajectories": elsewhere}), world / "absolute")
    collect(both)
    shard = load_file(shard_file(world / "absolute_paths", 0))
    block = (shard["prompt_length"][:, None] + torch.arange(40)) // 8
    for row, order in zip(block, shard["order"].long(), strict=True):
        assert (row[order.argsort()].diff() >= 0).all()  # blocks left to right
    train(both)
    saved = load_config(world / "absolute/student")
    assert (saved.attention, saved.block_grid) == ("block_causal", "absolute")


def test_weights_out_of_range_and_missing_paths(world, tmp_path):
    with pytest.raises(ValueError, match="cdlm.consistency=-1.0 must be at least 0"):
        cdlm_config(world, "none", changes={"cdlm": {"consistency": -1.0}})
    with pytest.raises(ValueError, match="must not all be 0"):
        CDLMConfig(distillation=0, consistency=0, denoising=0)
    missing = cdlm_config(world, "none")
    missing = dataclasses.replace(
        missing, trajectories=dataclasses.replace(missing.trajectories, dir=str(tmp_path / "no"))
    )
    with pytest.raises(ValueError, match="run python -m cd4lm.training.collect_trajectories first"):
        build_trainer(missing, world / "none")


def test_a_checkpoint_of_a_block_causal_run_consolidates(world):
    run = cdlm_config(world, "kept")
    trainer = build_trainer(run, world / "kept")
    (world / "kept").mkdir(exist_ok=True)
    dump(run, world / "kept/config.yaml")
    trainer.train()
    consolidate(world / "kept/checkpoints/checkpoint-4", world / "at4")
    assert load_config(world / "at4").attention == "block_causal"
