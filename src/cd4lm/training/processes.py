"""Several processes: how many were asked for, how they share a step's rows, and what each launcher needs."""

import os
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from cd4lm.config import require
from cd4lm.settings import TrainConfig


@dataclass(frozen=True)
class LaunchFile:
    """What this program reads of an accelerate config file."""

    path: str
    processes: int
    machines: int
    cpu: bool
    deepspeed: dict | None
    fsdp: bool

    @staticmethod
    def read(path: str) -> "LaunchFile":
        """Raises ValueError if the file is missing or names no number of processes."""
        require(Path(path).is_file(), f"launch file {path} does not exist: see configs/accelerate_*.yaml")
        tree = yaml.safe_load(Path(path).read_text())
        require(
            isinstance(tree, dict) and isinstance(tree.get("num_processes"), int),
            f"{path} names no num_processes: it is not an accelerate launch file",
        )
        deepspeed = tree["deepspeed_config"] if tree.get("distributed_type") == "DEEPSPEED" else None
        cpu, fsdp = bool(tree.get("use_cpu")), tree.get("distributed_type") == "FSDP"
        return LaunchFile(path, tree["num_processes"], tree.get("num_machines", 1), cpu, deepspeed, fsdp)


def processes_asked(train: TrainConfig) -> int:
    """NUM_PROCESSES of the environment, else the launch file's number, else one."""
    asked = processes_of_environment()
    if asked is not None:
        return asked
    return 1 if train.launch is None else LaunchFile.read(train.launch).processes


def processes_of_environment() -> int | None:
    """NUM_PROCESSES, None where it is not set."""
    asked = os.environ.get("NUM_PROCESSES")
    require(asked is None or (asked.isdigit() and int(asked) > 0), f"NUM_PROCESSES={asked} must be a positive number")
    return None if asked is None else int(asked)


def check_world_size(train: TrainConfig) -> None:
    """Stop if fewer processes run than were asked for, which launchers do without a word."""
    asked, running = processes_asked(train), int(os.environ.get("WORLD_SIZE", "1"))
    require(
        asked == running,
        f"{asked} processes were asked for but {running} run: start with python -m cd4lm.training.launch, or set "
        "NUM_PROCESSES to what runs",
    )


def rows_per_step(train: TrainConfig) -> int:
    """Rows of one optimiser step: global_batch, or batch_size x accumulation on the processes of the config's file."""
    if train.global_batch is not None:
        return train.global_batch
    return (
        train.batch_size * train.accumulation * (1 if train.launch is None else LaunchFile.read(train.launch).processes)
    )


def split_step(train: TrainConfig, processes: int) -> tuple[int, int]:
    """(rows of a micro-batch, micro-batches) of each process, so that a step has the same rows on any number of them.

    A micro-batch is the largest divisor of a process's share that is at most batch_size.
    Raises ValueError if the processes cannot share the rows evenly.
    """
    rows = rows_per_step(train)
    require(
        rows % processes == 0,
        f"{rows} rows per step cannot be shared by {processes} processes: change train.global_batch or the processes",
    )
    share = rows // processes
    batch = max(n for n in range(1, min(train.batch_size, share) + 1) if share % n == 0)
    return batch, share // batch


def on_cpu() -> bool:
    """Whether training runs on the CPU."""
    return not torch.cuda.is_available()


def prepare_deepspeed() -> None:
    """Before a Trainer on a CPU: without this DeepSpeed compiles a shared-memory extension for minutes at start-up."""
    if on_cpu() and os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
        import deepspeed

        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def shard_frozen(model: torch.nn.Module, blocks, device: torch.device) -> torch.nn.Module:
    """Spread a frozen model over all processes, each block gathered only while it computes (FSDP2).

    It works beside any way of training the student; every process must call the model equally often.
    Raises ValueError with one process, where there is nothing to spread over.
    """
    require(
        torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1,
        "shard_teacher=true needs several processes: start with NUM_PROCESSES or a launch file",
    )
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    for block in blocks:
        fully_shard(block, mesh=mesh)
    return fully_shard(model, mesh=mesh)
