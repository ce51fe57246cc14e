"""The decoding benchmark: its counts against torch's, a real run, bad options."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from benchmarking import shapes
from benchmarking.decoding_record import Measured, flips
from benchmarking.decoding_run import ForwardCounter, agreement
from benchmarking.machine import PeakMemory, matmul_ceiling
from torch.utils.flop_counter import FlopCounterMode

from cd4lm.data.rows import write_jsonl
from cd4lm.data.tiny_task import make_row
from cd4lm.decoding import ConfidenceAdaptive, DecodeConfig, decode
from cd4lm.model import LLaDAModelLM
from scripts import benchmark_decoding
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
    with ForwardCounter(model) as counter, FlopCounterMode(display=False) as torch_counter:
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
    found = agreement(replace(result, tokens=other), result)
    assert found == {"tokens": 19 / 20, "answers": 0.5}


@pytest.mark.parametrize("dtype", shapes.DTYPES.values())
def test_a_ceiling_is_the_best_of_a_square_and_the_models_own_products(monkeypatch, dtype):
    model = random_model().to(dtype)
    monkeypatch.setattr("benchmarking.machine.matmul_rate", lambda device, dtype: 1.0)  # a square that is slow
    assert matmul_ceiling(model, {4, 64}) > 1.0
    monkeypatch.setattr("benchmarking.machine.matmul_rate", lambda device, dtype: 1e30)
    assert matmul_ceiling(model, {4, 64}) == 1e30


def test_peak_memory_holds_what_was_freed_before_the_end():
    with PeakMemory(torch.device("cpu")) as memory:
        torch.ones(2**24)  # 64 MiB
    assert memory.peak - memory.before > 2**25


def test_one_shape_is_one_model_in_both_benchmarks():
    for shape, millions in (("tiny", 1.2), ("100m", 157), ("1b", 1390), ("8b", 8016)):
        arguments = benchmark_decoding.command_line().parse_args(["--shape", shape])
        config = shapes.config_of(arguments)
        with torch.device("meta"):
            model = LLaDAModelLM(config)
        assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, rel=0.02)
        assert shapes.random_tokens(config, 2, 50, seed=0).max() < config.eos_token_id < config.mask_token_id


@pytest.mark.slow
def test_a_run_writes_what_it_measured(monkeypatch, tmp_path, capsys):
    command(monkeypatch, f"{SMALL} --modes plain exact prefix dual --dtype float32 bfloat16 --output_dir {tmp_path}")
    benchmark_decoding.main()
    report = json.loads((tmp_path / "decoding.json").read_text())
    records = {(r["dtype"], r["mode"], r["batch"]): r for r in report["records"]}
    assert len(records) == 14
    plain, exact = records["float32", "plain", 1], records["float32", "exact", 2]
    assert exact["agreement"] == {"tokens": 1.0, "answers": 1.0} and exact["nfe"] <= plain["nfe"]
    assert exact["forwards"] < records["float32", "exact", 1]["forwards"]
    for r in records.values():
        assert len(r["seconds"]) == len(r["speedup"]) == 2 and min(r["seconds"]) > 0
        assert r["latency"]["p50"] <= r["latency"]["p99"] and r["share_matmul"] > 0
        assert ("flip_rate" in r) == (r["dtype"] == "bfloat16")
    assert "(approximate)" in capsys.readouterr().out


def test_fixed_steps_and_a_packed_head(monkeypatch, tmp_path):
    words = SMALL.replace("--repeats 2", "--repeats 1").replace("--batch 1 2", "--batch 1")
    command(monkeypatch, f"{words} --steps 8 --modes plain exact dual+packed exact+packed --output_dir {tmp_path}")
    benchmark_decoding.main()
    records = {r["mode"]: r for r in json.loads((tmp_path / "decoding.json").read_text())["records"]}
    assert records["plain"]["nfe"] == 8 and records["exact+packed"]["exact"]
    assert records["exact+packed"]["agreement"]["tokens"] > 0.9  # one token that flips may change those after it


def test_answers_are_scored_and_paired(monkeypatch, tmp_path):
    write_jsonl(tmp_path / "questions.jsonl", [make_row("test", i, seed=0) for i in range(6)])
    few = "--prompts 6 --batch 6 --repeats 1 --gen_length 40 --block_length 20 --threshold 0.6"
    modes = "--modes exact dual --refresh_interval 0 1 --dtype float32 bfloat16"
    model = f"--model_path {ROOT}/checkpoints/tiny_teacher --data {tmp_path}/questions.jsonl"
    command(monkeypatch, f"{model} {few} {modes} --output_dir {tmp_path}")
    benchmark_decoding.main()
    records = {(r["dtype"], r["mode"]): r for r in json.loads((tmp_path / "decoding.json").read_text())["records"]}
    assert {mode for _, mode in records} == {"exact", "dual", "dual/1"}
    every = records["float32", "dual/1"]  # refreshed at every step there is nothing approximate left
    assert every["exact"] and every["agreement"]["tokens"] == 1.0 and not records["float32", "dual"]["exact"]
    for (dtype, _), r in records.items():
        difference = r["paired"]["accuracy_difference"]
        assert difference["low"] <= difference["value"] <= difference["high"]
        assert difference["value"] == pytest.approx(r["accuracy"] - records[dtype, "exact"]["accuracy"])
        assert r["paired"]["fewer_nfe"]["value"] == pytest.approx(records[dtype, "exact"]["nfe"] / r["nfe"])
        assert ("paired_float32" in r) == ("flipped_answers" in r) == (dtype == "bfloat16")


def test_flips_count_what_differs_from_float32():
    model = random_model()
    config = DecodeConfig(mask_id=59, gen_length=16, block_length=8, stop_at_eos=False)
    result = decode(model, [torch.tensor([1]), torch.tensor([2])], ConfidenceAdaptive(threshold=0.5), config)
    other = result.tokens.clone()
    other[1, 3] = 58
    labels = {"mode": "exact", "batch": 1, "prompt_length": 1, "gen_length": 16}
    wide = Measured(labels | {"dtype": "float32"}, result, np.array([1.0, 1.0]))
    low = Measured(labels | {"dtype": "bfloat16"}, replace(result, tokens=other), np.array([1.0, 0.0]))
    flips([wide, low])
    assert low.record["flip_rate"] == pytest.approx(1 / 32) and low.record["flipped_answers"] == 0.5
    assert low.record["paired_float32"]["accuracy_difference"]["value"] == -0.5
    assert "flip_rate" not in wide.record


def test_the_exact_cache_is_compared_with_no_cache(monkeypatch, tmp_path):
    few = "--prompts 1 --batch 1 --repeats 1 --attention block_causal --modes exact block"
    command(monkeypatch, f"{SMALL} {few} --output_dir {tmp_path}")
    benchmark_decoding.main()
    exact, block = json.loads((tmp_path / "decoding.json").read_text())["records"]
    assert block["exact"] and block["agreement"]["tokens"] == 1.0 and block["nfe"] == exact["nfe"]
    assert exact["speedup"] == [1.0] and len(block["speedup"]) == 1


def test_several_open_blocks_beside_one(monkeypatch, tmp_path):
    few = "--prompts 2 --batch 1 2 --repeats 1 --attention block_causal --threshold 0.95 --block_add_threshold 0.1"
    modes = "--modes exact multi_block multi_block_cached"
    command(monkeypatch, f"{SMALL} {few} {modes} --output_dir {tmp_path}")
    benchmark_decoding.main()
    records = {(r["mode"], r["batch"]): r for r in json.loads((tmp_path / "decoding.json").read_text())["records"]}
    for batch in (1, 2):
        exact, several, cached = (records[m, batch] for m in ("exact", "multi_block", "multi_block_cached"))
        assert exact["columns_read"] == 16 < several["columns_read"] == cached["columns_read"] <= 32
        assert several["nfe"] == cached["nfe"] < exact["nfe"]
        assert several["agreement"] == cached["agreement"]


@pytest.mark.parametrize(
    "words,message",
    [
        ("--shape tiny --gen_length 30", "gen_length=30 is not a multiple"),
        ("--shape tiny --batch 0", "--batch=0"),
        ("--shape tiny --repeats 0", "--repeats=0"),
        ("--shape tiny --block_length 0", "block_length=0"),
        ("--shape tiny --n_layers 0", "n_layers=0"),
        ("--shape tiny --vocab_size 300", "vocab_size=300 must be at least 512"),
        ("--shape tiny --d_model 100 --n_heads 3", "d_model=100 must split into n_heads=3"),
        ("--shape tiny --prompt_length 4000", "--prompt_length=4000 \\+ 256 is above 4096"),
        ("--shape tiny --modes block", "cache='block' needs a block-causal checkpoint"),
        ("--shape tiny --modes exact --refresh_interval 4", "--refresh_interval needs prefix or dual"),
        ("--shape tiny --modes exact+packed --dtype bfloat16", "\\+packed are for float32 on a CPU"),
        ("--shape tiny --steps 0", "--steps=0 must be at least 1"),
        ("--shape tiny --refresh_interval 0 -1", "refresh_interval=-1"),
        ("--shape tiny --threshold 2", "threshold=2"),
        ("--shape tiny --modes multi_block --block_add_threshold 0", "block_add_threshold=0.0 is not a share"),
        ("--shape tiny --modes multi_block_cached", "cache='block' needs a block-causal checkpoint"),
        ("--shape tiny --data x.jsonl", "--data needs --model_path"),
        ("--model_path nowhere", "--model_path needs --data"),
        ("--model_path nowhere --data nowhere.jsonl", "nowhere.jsonl does not exist"),
        (f"--model_path nowhere --data {ROOT}/README.md --n_layers 2", "--n_layers is for random weights"),
        (f"--model_path {ROOT}/nowhere --data {ROOT}/README.md", "nowhere"),
    ],
)
def test_wrong_options_are_refused_before_a_model_is_made(tmp_path, words, message):
    with pytest.raises(ValueError, match=message):
        benchmark_decoding.check(
            benchmark_decoding.command_line().parse_args([*words.split(), "--output_dir", f"{tmp_path}/out"])
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "row,column", [({"q": "x"}, "question"), ({"question": "x"}, "answer"), ({"question": 5}, "question")]
)
def test_rows_without_text_are_named(refused, tmp_path, row, column):
    write_jsonl(tmp_path / "rows.jsonl", [row])
    words = ("--model_path", ROOT / "checkpoints/tiny_teacher", "--data", tmp_path / "rows.jsonl", "--prompts", 1)
    refused(benchmark_decoding.main, f"row 1 has no text in column '{column}'", *words, "--output_dir", tmp_path)


def test_help_names_the_commands(capsys):
    with pytest.raises(SystemExit):
        benchmark_decoding.command_line().parse_args(["--help"])
    assert "python scripts/benchmark_decoding.py --shape 8b" in capsys.readouterr().out
    assert (ROOT / "scripts/benchmark_decoding.py").is_file()
