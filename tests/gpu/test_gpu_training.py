"""Training on GPUs: NCCL, every way of sharding against one process, bf16, predicted memory, compile, 8-bit states."""

import pytest
import torch
from preflighting import gpu
from preflighting.checks import OK

from tests.gpu.bodies import (
    compiled_trains_alike,
    falls,
    fits_prediction,
    needs,
)
from tests.training.launched import check_same, finished, launch_file
from tests.training.worlds import write_config, write_teacher_and_data

pytestmark = pytest.mark.gpu
REL, ATOL = 1e-3, 1e-3  # float32 on a GPU, whose sums have another order


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with teacher and data, and the run of one GPU in `one`."""
    folder = tmp_path_factory.mktemp("world")
    write_teacher_and_data(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "0")
        finished(write_config(folder, "one"))
    return folder


@needs(2)
def test_nccl_sums():
    line = gpu.collective("NCCL", torch.cuda.device_count(), torch.device("cuda"))
    assert line.verdict == OK, line.what


@needs(2)
def test_ddp_is_one_process(world, monkeypatch):
    monkeypatch.setenv("NUM_PROCESSES", "2")
    finished(write_config(world, "ddp", shard_teacher=True))
    check_same(world, "ddp", REL, ATOL)


@needs(2)
def test_fsdp_is_one_process(world):
    launch = launch_file(world, "accelerate_fsdp_8gpu", cpu=False)
    finished(write_config(world, "fsdp", global_batch=8, launch=launch))
    check_same(world, "fsdp", REL, ATOL)


@needs(2, package="deepspeed")
@pytest.mark.parametrize("stage", [2, 3])
def test_zero_is_one_process(world, stage):
    launch = launch_file(world, f"accelerate_zero{stage}_8gpu", cpu=False)
    finished(write_config(world, f"zero{stage}", global_batch=8, launch=launch))
    check_same(world, f"zero{stage}", REL, ATOL)


@needs(1)
def test_bf16_50_steps(tmp_path):
    write_teacher_and_data(tmp_path)
    falls(tmp_path, "bf16", 50, bf16=True)


@needs(1)
def test_compiled_blocks(tmp_path):
    write_teacher_and_data(tmp_path)
    compiled_trains_alike(tmp_path)


@needs(1, package="bitsandbytes")
def test_8_bit_optimizer(tmp_path):
    write_teacher_and_data(tmp_path)
    falls(tmp_path, "adamw_8bit", 20, optimizer="adamw_8bit")


@needs(1)
def test_embedded_step_within_prediction(tmp_path):
    fits_prediction("configs/tiny.yaml", None, tmp_path)


@needs(1, gigabytes=40)
def test_lora_step_of_8b_within_prediction(tmp_path):
    fits_prediction("configs/llada_8b_gsm8k_lora.yaml", "8b", tmp_path)
