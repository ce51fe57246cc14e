"""Start training on as many processes as the config or NUM_PROCESSES asks for.

    python -m cd4lm.training.launch configs/llada_8b_gsm8k.yaml [key=value ...]
    NUM_PROCESSES=2 python -m cd4lm.training.launch configs/tiny.yaml

One process without a launch file; torchrun for NUM_PROCESSES; accelerate with train.launch. On several machines run it
once on each, with MACHINE_RANK, MASTER_ADDR and MASTER_PORT set (scripts/slurm_4x8.sh).
"""

import os
import signal
import sys
from collections.abc import Mapping

import torch

from cd4lm.config import command_line, exit_with_message, load, require
from cd4lm.model.checkpoint import check_folder
from cd4lm.settings import ExperimentConfig, TrainConfig
from cd4lm.training.commands import start
from cd4lm.training.processes import LaunchFile, processes_asked, processes_of_environment, split_step

TRAIN = ["-m", "cd4lm.training.train"]
GROUP = ["-m", "cd4lm.training.worker_group"]
MOST_COLLECTORS = 4  # each holds the teacher
SECONDS_TO_SAVE = "3600"  # torchrun kills its processes 30 s after a SIGTERM; saving an 8B model takes longer


def check_devices(train: TrainConfig, processes: int, gpus: int, cores: int) -> None:
    """Raise ValueError before anything starts if this machine cannot run its share of the processes."""
    file = LaunchFile.of(train)
    source = "NUM_PROCESSES" if "NUM_PROCESSES" in os.environ or file is None else train.launch
    machines = 1 if file is None else file.machines
    require(processes % machines == 0, f"{source} asks for {processes} processes on {machines} machines: uneven")
    here = processes // machines
    if gpus == 0 and (file is None or file.cpu):
        require(here <= cores, f"{source} asks for {here} processes but this machine has {cores} CPU cores")
        require(file is None or not file.fsdp, f"{train.launch}: FSDP on a CPU would silently be plain DDP; use ZeRO")
    else:
        require(
            here <= gpus,
            f"{source} asks for {here} processes per machine but this one has {gpus} GPU(s): change num_processes and "
            "num_machines, set NUM_PROCESSES, or use train.launch=null",
        )
    split_step(train, processes)


def accelerate_words(file: LaunchFile, processes: int, environment: Mapping[str, str]) -> list[str]:
    """accelerate's launcher with a launch file; the environment says which of several machines this is."""
    words = [*GROUP, "accelerate.commands.launch", "--config_file", file.path, "--num_processes", str(processes)]
    if file.machines > 1:
        missing = [name for name in ("MACHINE_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in environment]
        require(not missing, f"{file.path} is for {file.machines} machines: set {', '.join(missing)} on each")
        words += ["--machine_rank", environment["MACHINE_RANK"], "--main_process_ip", environment["MASTER_ADDR"]]
        words += ["--main_process_port", environment["MASTER_PORT"]]
    return words


def deepspeed_environment(settings: dict) -> dict[str, str]:
    """What accelerate's launcher sets, for torchrun: on a CPU accelerate's starts one process whatever it is asked."""
    return {
        "ACCELERATE_USE_DEEPSPEED": "true",
        "ACCELERATE_DEEPSPEED_ZERO_STAGE": str(settings["zero_stage"]),
        "ACCELERATE_DEEPSPEED_ZERO3_INIT": str(settings["zero3_init_flag"]).lower(),
        "ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL": str(settings.get("zero3_save_16bit_model", False)).lower(),
    }


def training_command(config: ExperimentConfig, settings: list[str]) -> tuple[list[str], dict[str, str]]:
    """The command that trains, and what it needs in the environment. Raises ValueError where check_devices does."""
    train, gpus, cores = config.train, torch.cuda.device_count(), os.cpu_count() or 1
    processes = processes_asked(train)
    check_devices(train, processes, gpus, cores)
    file = LaunchFile.of(train)
    environment = {"NUM_PROCESSES": str(processes)}
    environment["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = os.environ.get("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", SECONDS_TO_SAVE)
    if file is not None and not file.cpu:
        return [sys.executable, *accelerate_words(file, processes, os.environ), *TRAIN, *settings], environment
    if processes == 1:
        # One process that sees several GPUs would split each batch over them (DataParallel).
        one = {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]} if gpus > 1 else {}
        return [sys.executable, *TRAIN, *settings], environment | one
    if file is not None and file.deepspeed is not None:
        environment |= deepspeed_environment(file.deepspeed)
    command, threads = torchrun([*TRAIN, *settings], processes)
    return command, environment | threads


def torchrun(words: list[str], processes: int) -> tuple[list[str], dict[str, str]]:
    """`python words...` as processes of this machine, and the environment that divides its CPU cores among them."""
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    group = [*GROUP, "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    return [sys.executable, *group, *words], {"OMP_NUM_THREADS": threads}


def collection_command(settings: list[str]) -> tuple[list[str], dict[str, str]]:
    """The command that records the teacher's paths, which are the same on any number of processes.

    NUM_PROCESSES of the environment, else one per GPU, else one per CPU core but no more than MOST_COLLECTORS.
    """
    gpus, cores = torch.cuda.device_count(), os.cpu_count() or 1
    asked = processes_of_environment()
    processes = (gpus or min(cores, MOST_COLLECTORS)) if asked is None else min(asked, gpus or cores)
    collect = ["-m", "cd4lm.training.collect_trajectories", *settings]
    return ([sys.executable, *collect], {}) if processes == 1 else torchrun(collect, processes)


def run_command(command: list[str], environment: Mapping[str, str]) -> int:
    """Run a command and hand a SIGTERM on to it; its exit status, as a shell reports it."""
    process = start(command, environment)
    previous = signal.signal(signal.SIGTERM, lambda number, frame: process.terminate())
    status = process.wait()
    signal.signal(signal.SIGTERM, previous)
    return 128 - status if status < 0 else status


def main():
    path, overrides = command_line(__doc__)
    config = load(ExperimentConfig, path, overrides)
    check_folder(config.teacher)
    sys.exit(run_command(*training_command(config, [path, *overrides])))


if __name__ == "__main__":
    exit_with_message(main)
