"""The check before a launch: its prediction against a measured step, its refusals, what it says of wrong input."""

import json
import shlex
import shutil
from dataclasses import replace

import pytest
import torch
import yaml
from preflighting import checks, standin, step
from preflighting.checks import NO, OK, UNKNOWN
from preflighting.fake import FakeStep
from preflighting.sharded import local_bytes
from preflighting.verdict import MARGIN, verdict_of
from safetensors.torch import load_file, save_file

from cd4lm.config import build, load
from cd4lm.model.checkpoint import CheckpointError
from cd4lm.model.loading import empty_network, load_config
from cd4lm.settings import ExperimentConfig
from scripts import preflight
from tests.conftest import ROOT
from tests.training.worlds import OBJECTIVES, cdlm_settings, config, settings, write_config, write_teacher_and_data

TINY = str(ROOT / "configs/tiny.yaml")
ALONE = "also={}"  # the experiment's own student only


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    write_teacher_and_data(folder)
    return folder


@pytest.mark.slow
def test_the_embedded_step_is_predicted_within_15_percent(run_main, tmp_path):
    said, out = run_main(preflight.main, TINY, ALONE, "--measure", "--json", tmp_path / "found.json")
    assert said is None, said
    found = json.loads((tmp_path / "found.json").read_text())
    rows = {row["check"]: row for row in found["rows"]}
    predicted, real = rows["memory"]["peak"], rows["memory, measured"]["measured"]["peak"]
    assert 0.85 < predicted / real < 1.15
    assert found["verdict"] == "fits" and rows["checkpoint"]["verdict"] == OK and rows["data"]["left_out"] == 0
    assert rows["memory"]["rows"] == 64 and "one process" in rows["memory"]["how"]
    assert rows["time"]["steps"] == 100 and out.strip().endswith("fits")
    assert all(f"| {name} |" in out for name in rows)


@pytest.mark.slow
def test_what_does_not_fit_is_refused_with_the_setting_that_helps(run_main, tmp_path):
    said, _ = run_main(preflight.main, TINY, ALONE, "--gpu_memory_gb", "0.3", "--json", tmp_path / "found.json")
    assert "does not fit 1 x 0.3 GB" in said and "\n" not in said
    assert "fits with train.gradient_checkpointing=true" in said
    found = json.loads((tmp_path / "found.json").read_text())
    rows = {row["check"]: row for row in found["rows"]}
    assert found["verdict"] == "does not fit" and rows["memory"]["verdict"] == NO
    settings = rows["memory, what helps"]["settings"]
    assert settings[-1][1] * MARGIN <= 0.3e9 < rows["memory"]["peak"]
    typed = [word for setting, _ in settings for word in shlex.split(setting)]
    asked = load(ExperimentConfig, TINY, [ALONE, *typed])
    # The settings as printed do what is said of them; Python's collector may free a cycle earlier or later.
    assert step.predict(asked).peak == pytest.approx(settings[-1][1], rel=0.05)


def test_a_margin_that_decides_is_no_verdict():
    assert [verdict_of(peak, 100) for peak in (80, 90, 101)] == [OK, UNKNOWN, NO]


def own(folder, objective: str, **changes) -> ExperimentConfig:
    return build(ExperimentConfig, cdlm_settings(folder, "o", changes=OBJECTIVES[objective] | changes))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_with_its_largest_masks(world, objective, tmp_path):
    asked = own(world, objective, train={"batch_size": 3, "accumulation": 1, "max_steps": 4, "bf16": False})
    fake = FakeStep()
    trainer = step.make_trainer(asked, str(tmp_path), deepspeed=False, fake=fake)
    rows = step.worst_batch(asked, trainer)
    assert rows["input_ids"].shape == (3, asked.format.max_length)
    many = {name: rows[name][:1].expand(200, *rows[name].shape[1:]) for name in rows} | {
        "example_id": torch.arange(200)
    }
    assert trainer.head_rows(rows).min() >= trainer.head_rows(many).max()
    found = step.predict(asked)
    assert found.peak > found.weights + found.optimizer > found.weights > 0 and found.flops > 0
    moments = sum(2 * local_bytes(p) for p in trainer.model.parameters() if p.requires_grad)
    assert found.optimizer == pytest.approx(moments, rel=0.05)


def test_adapters_and_accumulation(world):
    one, more = (config(world, "o", accumulation=n, batch_size=2) for n in (1, 4))
    alone = step.predict(one)
    assert 0 < step.predict(more).peak - alone.peak <= 4 * alone.trained * 1.1  # gradients held while the next one runs
    adapted = replace(build(ExperimentConfig, settings(world, "o") | {"lora": {"rank": 2}}), init_from=None)
    assert step.predict(adapted).trained < alone.trained / 2


def test_ddp_holds_every_gradient_twice(world, monkeypatch):
    one = step.predict(config(world, "o", batch_size=4, global_batch=4))
    monkeypatch.setenv("NUM_PROCESSES", "2")
    two = step.predict(config(world, "o", batch_size=4, global_batch=8))
    assert two.rows == one.rows and "DDP" in two.how
    assert two.peak - one.peak == pytest.approx(4 * one.trained, rel=0.3)


def test_fsdp_holds_its_share(world):
    one = step.predict(config(world, "o", batch_size=4, global_batch=4))
    launch = str(ROOT / "configs/accelerate_fsdp_8gpu.yaml")
    shared = step.predict(config(world, "o", batch_size=4, global_batch=32, launch=launch, shard_teacher=True))
    assert "FSDP2" in shared.how and shared.rows == one.rows
    assert shared.weights < one.weights / 4 and shared.optimizer < one.optimizer / 4


def test_zero_is_deepspeeds_own_estimate(world):
    pytest.importorskip("deepspeed")
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs

    files = {stage: str(ROOT / f"configs/accelerate_zero{stage}_8gpu.yaml") for stage in (2, 3)}
    found = {n: step.predict(config(world, "o", batch_size=4, global_batch=32, launch=f)) for n, f in files.items()}
    assert all(f"DeepSpeed's estimator of ZeRO-{n}" in each.how for n, each in found.items())
    network = empty_network(load_config(world / "teacher"))
    largest = max(sum(p.numel() for p in m.parameters(recurse=False)) for m in network.modules())
    _, wanted, _ = estimate_zero3_model_states_mem_needs(found[3].trained, largest, 8, 1, False, False)
    assert found[3].optimizer == wanted < found[2].optimizer


class TestCheckpoint:
    def test_whole(self):
        line = checks.checkpoint("checkpoint", str(ROOT / "checkpoints/tiny_teacher"))
        assert line.verdict == OK and line.numbers["weights"] == 1_044_720

    def test_a_missing_weight_and_a_cut_file(self, tmp_path):
        shutil.copytree(ROOT / "checkpoints/tiny_teacher", tmp_path / "t")
        file = tmp_path / "t/model.safetensors"
        weights = load_file(file)
        weights.popitem()
        save_file(weights, file)
        line = checks.guarded("checkpoint", checks.checkpoint, str(tmp_path / "t"))
        assert line.verdict == NO and "1 missing weight" in line.what
        file.write_bytes(file.read_bytes()[:-100])
        line = checks.guarded("checkpoint", checks.checkpoint, str(tmp_path / "t"))
        assert line.verdict == NO and "damaged or truncated" in line.what
        folder, origin = standin.shape_of(str(tmp_path / "t"), None, tmp_path)  # memory can be told all the same
        assert load_config(folder).d_model == 144 and origin.endswith("config.json")

    def test_one_that_is_not_here_has_the_released_shape(self, tmp_path, monkeypatch):
        def not_cached(*arguments, **options):
            raise OSError("not in the cache")

        monkeypatch.setattr("huggingface_hub.snapshot_download", not_cached)
        for name, millions in (
            ("GSAI-ML/LLaDA-8B-Instruct", 8016),
            ("Dream-org/Dream-v0-Instruct-7B", 7616),
            ("GSAI-ML/iLLaDA-8B-Instruct", 7615),
        ):
            assert checks.checkpoint("checkpoint", name).verdict == UNKNOWN
            own = tmp_path / name.replace("/", "_")
            own.mkdir()
            folder, origin = standin.shape_of(name, None, own)
            assert origin.endswith("as released")
            count = sum(p.numel() for p in empty_network(load_config(folder)).parameters())
            assert round(count / 1e6) == millions
        with pytest.raises(CheckpointError, match="its shape is not known"):
            standin.shape_of("./outputs/none", None, tmp_path)


def test_lengths_and_eos_of_the_data(world):
    asked = config(world, "o")
    line = checks.data_fits("data", asked)
    assert line.verdict == OK and line.numbers["examples"] == 22 and line.numbers["left_out"] == 0
    assert 0 < line.numbers["eos_share"] < 0.2  # one a row
    filled = replace(asked, format=replace(asked.format, eos="fill"))
    assert checks.data_fits("data", filled).numbers["eos_share"] > line.numbers["eos_share"]
    longest = line.numbers["longest"]
    short = replace(asked, format=replace(asked.format, max_length=longest - 1))
    assert checks.data_fits("data", short).numbers["left_out"] >= 1
    short = replace(asked, format=replace(asked.format, max_length=2))
    assert checks.guarded("data", checks.data_fits, short).verdict == NO


def test_a_checkpoint_that_nobody_knows_leaves_the_verdict_open(run_main, world):
    path = world / "unknown.yaml"
    path.write_text(yaml.safe_dump(settings(world, "o") | {"teacher": "./nowhere/model"}))
    said, out = run_main(preflight.main, path)
    assert said == str(preflight.COULD_NOT_TELL) and "its shape is not known" in out


@pytest.mark.parametrize(
    "words,message",
    [
        ("configs/none.yaml", "config file configs/none.yaml does not exist"),
        ("configs/accelerate_zero2_8gpu.yaml", "unknown key"),
        ("configs/tiny_teacher.yaml", "preflight is for students"),
        ("CONFIG train.batchsize=2", "did you mean batch_size?"),
        ("CONFIG --gpus 0", "--gpus=0 must be above 0"),
        ("CONFIG --gpus 7", "8 rows per step cannot be shared by 7 processes"),
        ("CONFIG --gpu_memory_gb -1", "--gpu_memory_gb=-1.0 must be above 0"),
        ("CONFIG --json nowhere/found.json", "nowhere is not a folder"),
        ("CONFIG --gpus 2 --measure", "a step is measured in one process"),
        ("CONFIG train.launch=configs/none.yaml", "launch file configs/none.yaml does not exist"),
    ],
)
def test_wrong_input_is_one_line(refused, world, words, message):
    path = write_config(world, "wrong")
    refused(preflight.main, message, *[str(path) if word == "CONFIG" else word for word in words.split()])
