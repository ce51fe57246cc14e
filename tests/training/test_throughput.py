"""The formula of operations against torch's own count, and the keys of the log."""

import json

import torch
from torch.utils.flop_counter import FlopCounterMode

from cd4lm.training.throughput import forward_flops, matmul_rate
from tests.conftest import random_model
from tests.training.test_trainer import trainer


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
    assert matmul_rate(torch.device("cpu"), torch.float32) > 1e8


def test_a_step_logs_what_it_cost(tmp_path):
    run = trainer(tmp_path)
    run.train()
    lines = [json.loads(line) for line in (tmp_path / "training_log.jsonl").read_text().splitlines()]
    step = next(line for line in lines if "loss" in line)
    assert step["tokens_per_second"] > 0 and 0 < step["matmul_share"] < 2 and 0.05 < step["memory_gb"] < 50
