"""The decoding benchmark: its counts against torch's, a real run, bad options."""

import json
import sys
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from scripts import benchmark_decoding
from scripts.benchmarking import decoding_speed
from src.decoding import ConfidenceAdaptive, DecodeConfig, decode
from tests.conftest import ROOT, random_model

SMALL = (
    "--shape tiny --n_layers 2 --prompts 3 --batch 1 2 --prompt_length 7 --gen_length 32 --block_length 16 --repeats 2"
)


def command(monkeypatch, words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark_decoding.py", *words.split()])


@pytest.mark.parametrize("cache", ["plain", "none", "prefix", "dual"])
def test_operations_are_those_torch_counts(cache, prompts):
    model = random_model(n_kv_heads=2)
    config = DecodeConfig(mask_id=59, gen_length=16, block_length=8, cache=cache)
    with decoding_speed.ForwardCounter(model) as counter, FlopCounterMode(display=False) as torch_counter:
        decode(model, prompts[:1], ConfidenceAdaptive(threshold=0.5), config)
    # torch does not see the CPU's fused attention, which is the small part here.
    attention = counter.flops - torch_counter.get_total_flops()
    assert 0 <= attention < 0.25 * counter.flops


def test_agreement_counts_up_to_and_with_the_first_eos():
    model = random_model()
    config = DecodeConfig(mask_id=59, gen_length=16, block_length=8, stop_at_eos=False)
    result = decode(model, [torch.tensor([1]), torch.tensor([2])], ConfidenceAdaptive(threshold=0.5), config)
    result = replace(result, lengths=torch.tensor([3, 16]))
    other = result.tokens.clone()
    other[0, 3], other[0, 9] = 58, 58  # the EOS, and something after it
    found = decoding_speed.agreement(replace(result, tokens=other), result)
    assert found == {"tokens": 19 / 20, "answers": 0.5}


@pytest.mark.slow
def test_a_run_writes_what_it_measured(monkeypatch, tmp_path, capsys):
    command(monkeypatch, f"{SMALL} --modes plain exact prefix dual --dtype float32 bfloat16 --output_dir {tmp_path}")
    benchmark_decoding.main()
    report = json.loads((tmp_path / "decoding.json").read_text())
    assert (tmp_path / "decoding.png").stat().st_size > 10000
    records = {(r["dtype"], r["mode"], r["batch"]): r for r in report["records"]}
    assert len(records) == 14
    plain, exact = records["float32", "plain", 1], records["float32", "exact", 2]
    assert exact["agreement"] == {"tokens": 1.0, "answers": 1.0} and exact["nfe"] <= plain["nfe"]
    assert exact["forwards"] < records["float32", "exact", 1]["forwards"]
    for r in records.values():
        assert len(r["seconds"]) == len(r["speedup"]) == 2 and min(r["seconds"]) > 0
        assert r["latency"]["p50"] <= r["latency"]["p99"] and 0 < r["share_matmul"] < 1.5
        assert ("flip_rate" in r) == (r["dtype"] == "bfloat16")
    assert "(approximate)" in capsys.readouterr().out


def test_the_exact_cache_is_compared_with_no_cache(monkeypatch, tmp_path):
    few = "--prompts 1 --batch 1 --repeats 1 --attention block_causal --block_grid absolute --modes exact block"
    command(monkeypatch, f"{SMALL} {few} --output_dir {tmp_path}")
    benchmark_decoding.main()
    exact, block = json.loads((tmp_path / "decoding.json").read_text())["records"]
    assert block["exact"] and block["agreement"]["tokens"] == 1.0 and block["nfe"] == exact["nfe"]
    assert exact["speedup"] == [1.0] and len(block["speedup"]) == 1


@pytest.mark.parametrize(
    "words,message",
    [
        ("--shape tiny --gen_length 30", "gen_length=30 is not a multiple"),
        ("--shape tiny --batch 0", "--batch=0"),
        ("--shape tiny --repeats 0", "--repeats=0"),
        ("--shape tiny --threshold 2", "threshold=2"),
        ("--shape tiny --data x.jsonl", "--data needs --model_path"),
        ("--model_path nowhere", "--model_path needs --data"),
        ("--model_path nowhere --data nowhere.jsonl", "nowhere.jsonl does not exist"),
    ],
)
def test_bad_options(monkeypatch, tmp_path, words, message):
    command(monkeypatch, f"{words} --output_dir {tmp_path}/out")
    with pytest.raises(ValueError, match=message):
        benchmark_decoding.check(benchmark_decoding.parse())
    assert not (tmp_path / "out").exists()


def test_help_names_the_commands(monkeypatch, capsys):
    command(monkeypatch, "--help")
    with pytest.raises(SystemExit):
        benchmark_decoding.parse()
    assert "python scripts/benchmark_decoding.py --shape 8b" in capsys.readouterr().out
    assert (ROOT / "scripts/benchmark_decoding.py").is_file()
