"""How processes share a step, and what is refused before any of them starts."""

import dataclasses
from pathlib import Path

import pytest
import yaml

from cd4lm.config import build, load
from cd4lm.settings import ExperimentConfig, TrainConfig
from cd4lm.training.launch import (
    accelerate_words,
    check_devices,
    collection_command,
    deepspeed_environment,
    training_command,
)
from cd4lm.training.processes import LaunchFile, check_world_size, rows_per_step, split_step
from tests.conftest import BACKBONES, ROOT

ONE_NODE = ["accelerate_zero2_8gpu", "accelerate_zero3_8gpu", "accelerate_fsdp_8gpu"]
FOUR_NODES = ["accelerate_zero3_4x8gpu", "accelerate_fsdp_4x8gpu"]


def file_path(name: str) -> str:
    return str(ROOT / f"configs/{name}.yaml")


@pytest.fixture(autouse=True)
def no_processes_asked(monkeypatch):
    monkeypatch.delenv("NUM_PROCESSES", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)


@pytest.mark.parametrize("name", ONE_NODE + FOUR_NODES)
def test_launch_files_say_what_their_names_say(name):
    file = LaunchFile.read(file_path(name))
    assert (file.machines, file.processes) == ((1, 8) if name in ONE_NODE else (4, 32))
    assert file.fsdp == ("fsdp" in name) and (file.deepspeed is None) == file.fsdp
    if file.deepspeed is not None:
        assert file.deepspeed["zero_stage"] == (2 if "zero2" in name else 3)
        assert deepspeed_environment(file.deepspeed)["ACCELERATE_DEEPSPEED_ZERO_STAGE"] in "23"


@pytest.mark.parametrize("name", ONE_NODE + FOUR_NODES)
def test_accelerate_accepts_the_launch_files(name):
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(file_path(name))
    assert config.num_processes == LaunchFile.read(file_path(name)).processes
    assert config.distributed_type.value == ("FSDP" if "fsdp" in name else "DEEPSPEED")


@pytest.mark.parametrize("backbone", list(BACKBONES))
def test_fsdp_wraps_the_blocks_of_every_backbone(backbone):
    """The launch files name no class: the model says what its blocks are."""
    from accelerate.utils import FullyShardedDataParallelPlugin
    from accelerate.utils.fsdp_utils import fsdp2_prepare_auto_wrap_policy

    for name in ("accelerate_fsdp_8gpu", "accelerate_fsdp_4x8gpu"):
        settings = yaml.safe_load(Path(file_path(name)).read_text())["fsdp_config"]
        assert "fsdp_transformer_layer_cls_to_wrap" not in settings
        policy = settings["fsdp_auto_wrap_policy"].lower()
        plugin = FullyShardedDataParallelPlugin(fsdp_version=settings["fsdp_version"], auto_wrap_policy=policy)
        model = BACKBONES[backbone]()
        chosen = fsdp2_prepare_auto_wrap_policy(plugin, model)
        assert [module for module in model.modules() if chosen(module)] == list(model.blocks)


def test_the_rows_of_a_step_do_not_change_with_the_processes():
    train = TrainConfig(batch_size=4, accumulation=4)
    for processes in (1, 2, 4, 8, 16):
        batch, accumulation = split_step(train, processes)
        assert batch * accumulation * processes == 16 and batch <= 4
    assert split_step(train, 1) == (4, 4) and split_step(train, 8) == (2, 1)
    with pytest.raises(ValueError, match="16 rows per step cannot be shared by 3"):
        split_step(train, 3)


def test_a_launch_file_multiplies_the_rows_unless_they_are_given():
    train = TrainConfig(batch_size=2, accumulation=4, launch=file_path("accelerate_zero3_4x8gpu"))
    assert rows_per_step(train) == 256 and split_step(train, 32) == (2, 4)
    fixed = dataclasses.replace(train, global_batch=64)
    assert split_step(fixed, 32) == (2, 1) and split_step(fixed, 64) == (1, 1)


def test_more_processes_than_devices_are_refused(monkeypatch):
    train = TrainConfig(launch=file_path("accelerate_zero2_8gpu"))
    with pytest.raises(ValueError, match=r"asks for 8 processes per machine but this one has 2 GPU\(s\)"):
        check_devices(train, 8, gpus=2, cores=64)
    with pytest.raises(ValueError, match=r"has 0 GPU\(s\)"):
        check_devices(train, 8, gpus=0, cores=64)
    check_devices(train, 8, gpus=8, cores=64)
    with pytest.raises(ValueError, match="NUM_PROCESSES asks for 9 processes but this machine has 8 CPU cores"):
        check_devices(TrainConfig(batch_size=9), 9, gpus=0, cores=8)
    monkeypatch.setenv("NUM_PROCESSES", "4")
    with pytest.raises(ValueError, match="NUM_PROCESSES asks for 4"):
        check_devices(TrainConfig(), 4, gpus=1, cores=64)


def test_fsdp_on_a_cpu_is_refused(tmp_path):
    tree = yaml.safe_load(Path(file_path("accelerate_fsdp_8gpu")).read_text()) | {"use_cpu": True, "num_processes": 2}
    (tmp_path / "f.yaml").write_text(yaml.safe_dump(tree))
    with pytest.raises(ValueError, match="FSDP on a CPU would silently be plain DDP"):
        check_devices(TrainConfig(launch=str(tmp_path / "f.yaml")), 2, gpus=0, cores=4)


def test_a_launch_file_that_is_none(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        LaunchFile.read(str(tmp_path / "none.yaml"))
    with pytest.raises(ValueError, match="names no num_processes"):
        LaunchFile.read(str(ROOT / "configs/tiny.yaml"))


def test_several_machines_need_to_know_each_other():
    file = LaunchFile.read(file_path("accelerate_zero3_4x8gpu"))
    with pytest.raises(ValueError, match="set MACHINE_RANK, MASTER_PORT on each"):
        accelerate_words(file, 32, {"MASTER_ADDR": "node1"})
    words = accelerate_words(file, 32, {"MASTER_ADDR": "node1", "MASTER_PORT": "1", "MACHINE_RANK": "3"})
    assert words[words.index("--machine_rank") + 1] == "3"


def test_one_process_is_plain_python_and_two_are_torchrun(monkeypatch):
    config = load(ExperimentConfig, ROOT / "configs/tiny.yaml")
    words, environment = training_command(config, ["c.yaml"])
    assert words[1:] == ["-m", "cd4lm.training.train", "c.yaml"] and environment["NUM_PROCESSES"] == "1"
    monkeypatch.setenv("NUM_PROCESSES", "2")
    words, environment = training_command(config, ["c.yaml"])
    assert "torch.distributed.run" in words and environment["NUM_PROCESSES"] == "2"


def test_paths_are_recorded_by_a_process_per_gpu_or_core(monkeypatch):
    def processes() -> int:
        words, _ = collection_command(["c.yaml"])
        assert words[-3:] == ["-m", "cd4lm.training.collect_trajectories", "c.yaml"]
        return int(words[words.index("--nproc_per_node") + 1]) if "--nproc_per_node" in words else 1

    monkeypatch.setattr("os.cpu_count", lambda: 16)
    for gpus, asked, wanted in ((0, None, 4), (0, "2", 2), (1, None, 1), (8, None, 8), (8, "64", 8), (0, "1", 1)):
        monkeypatch.setattr("torch.cuda.device_count", lambda gpus=gpus: gpus)
        monkeypatch.delenv("NUM_PROCESSES", raising=False)
        if asked is not None:
            monkeypatch.setenv("NUM_PROCESSES", asked)
        assert processes() == wanted


def test_fewer_running_than_asked_is_refused(monkeypatch):
    monkeypatch.setenv("NUM_PROCESSES", "2")
    with pytest.raises(ValueError, match="2 processes were asked for but 1 run"):
        check_world_size(TrainConfig())
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_world_size(TrainConfig())
    monkeypatch.delenv("NUM_PROCESSES")
    with pytest.raises(ValueError, match="8 processes were asked for but 2 run"):
        check_world_size(TrainConfig(launch=file_path("accelerate_zero2_8gpu")))


@pytest.mark.parametrize("name,value", [("global_batch", 0), ("batch_size", 0), ("clip", 0)])
def test_bad_settings(name, value):
    with pytest.raises(ValueError, match=name):
        build(TrainConfig, {name: value})
