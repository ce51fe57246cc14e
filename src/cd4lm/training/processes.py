"""Several processes: how many were asked for, whether they run, and how they share the rows of a step."""

import os
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml

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
        kind, machines = tree.get("distributed_type"), tree.get("num_machines", 1)
        deepspeed = tree["deepspeed_config"] if kind == "DEEPSPEED" else None
        return LaunchFile(path, tree["num_processes"], machines, bool(tree.get("use_cpu")), deepspeed, kind == "FSDP")

    @staticmethod
    def of(train: TrainConfig) -> "LaunchFile | None":
        return None if train.launch is None else LaunchFile.read(train.launch)


def processes_of_environment() -> int | None:
    """NUM_PROCESSES, None where it is not set."""
    asked = os.environ.get("NUM_PROCESSES")
    require(asked is None or (asked.isdigit() and int(asked) > 0), f"NUM_PROCESSES={asked} must be a positive number")
    return None if asked is None else int(asked)


def processes_asked(train: TrainConfig) -> int:
    """NUM_PROCESSES of the environment, else the launch file's number, else one."""
    asked, file = processes_of_environment(), LaunchFile.of(train)
    return asked or (1 if file is None else file.processes)


def check_world_size(train: TrainConfig) -> None:
    """Raise ValueError if fewer processes run than were asked for: some launchers start fewer without an error."""
    asked, running = processes_asked(train), int(os.environ.get("WORLD_SIZE", "1"))
    require(
        asked == running,
        f"{asked} processes were asked for but {running} run: start with python -m cd4lm.training.launch, or set "
        "NUM_PROCESSES to what runs",
    )


def rows_per_step(train: TrainConfig) -> int:
    """Rows of one optimizer step: global_batch, or batch_size x accumulation on the processes of the config's file."""
    file = LaunchFile.of(train)
    return train.global_batch or train.batch_size * train.accumulation * (1 if file is None else file.processes)


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


def prepare_deepspeed() -> None:
    """Before a Trainer on a CPU: without this DeepSpeed compiles a shared-memory extension for minutes at start-up."""
    if not torch.cuda.is_available() and os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
        import deepspeed

        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
