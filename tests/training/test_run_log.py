"""The log survives a kill and has no line twice; operations are counted as torch counts them."""

import json

import torch
from torch.utils.flop_counter import FlopCounterMode

from cd4lm.training.run_log import RunLog, forward_flops, matmul_rate
from tests.conftest import random_model
from tests.training.test_trainer import trainer


def lines(folder):
    return [json.loads(line) for line in (folder / "training_log.jsonl").read_text().splitlines()]


def test_a_resumed_log_drops_what_came_after_the_checkpoint(tmp_path):
    first = RunLog(tmp_path, 0)
    for step in range(1, 6):
        first.write(step, {"loss": float(step)})
    first.close()
    with open(tmp_path / "training_log.jsonl", "a") as file:
        file.write('{"step": 6, "los')  # cut short by a kill
    second = RunLog(tmp_path, 3)
    second.write(4, {"loss": 4.5})
    second.close()
    assert [(line["step"], line["loss"]) for line in lines(tmp_path)] == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.5)]


def test_a_fresh_run_starts_empty(tmp_path):
    RunLog(tmp_path, 0).write(1, {"loss": 1.0})
    RunLog(tmp_path, 0).close()
    assert lines(tmp_path) == []


def test_tensorboard_gets_the_same_values(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = RunLog(tmp_path, 0)
    log.write(1, {"loss": 2.0})
    log.write(2, {"loss": 1.0})
    log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 2.0), (2, 1.0)]


def test_forward_flops_are_those_torch_counts():
    for heads in (4, 2):  # all heads with their own keys, or shared in pairs
        model = random_model(n_kv_heads=heads)
        x = torch.randint(0, 57, (3, 20))
        at = torch.zeros(3, 20, dtype=torch.bool)
        at[:, 5:9] = True
        with FlopCounterMode(display=False) as counted, torch.no_grad():
            model(x, logits_at=at)
        attention = 4 * 3 * 20 * 20 * model.config.d_model * model.config.n_layers
        ours = forward_flops(model.config, 3, 20, int(at.sum()))
        # torch does not know the CPU's fused attention.
        assert ours in (counted.get_total_flops(), counted.get_total_flops() + attention)


def test_the_rate_is_positive():
    assert matmul_rate(torch.device("cpu"), torch.float32) > 0


def test_a_step_logs_what_it_cost(tmp_path):
    run = trainer(tmp_path)
    run.train()
    step = next(line for line in lines(tmp_path) if "loss" in line)
    assert all(step[name] > 0 for name in ("tokens_per_second", "matmul_share", "memory_gb"))
