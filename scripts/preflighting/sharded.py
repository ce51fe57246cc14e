"""A model under fake tensors as one of several processes holds it: DDP and FSDP2 in a fake group, ZeRO by DeepSpeed's words."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import torch
from torch import distributed

from cd4lm.config import require
from cd4lm.settings import ExperimentConfig
from cd4lm.training.setup import shard_frozen
from cd4lm.training.trainer import StudentTrainer


@contextmanager
def fake_group(processes: int) -> Iterator[None]:
    """A group of so many processes of which this is the first and the others never answer."""
    if processes == 1:
        yield
        return
    from torch.testing._internal.distributed.fake_pg import FakeStore

    distributed.init_process_group("fake", rank=0, world_size=processes, store=FakeStore())
    try:
        yield
    finally:
        distributed.destroy_process_group()


def shard(trainer: StudentTrainer, config: ExperimentConfig, *, fsdp: bool) -> None:
    """Spread what FSDP2 spreads: the student if the launcher says so, the teacher if the config does."""
    if config.train.shard_teacher and trainer.teacher is not None:
        shard_frozen(trainer.teacher, trainer.args.device)
    if fsdp:
        fully_sharded(trainer, config)


def prepared(trainer: StudentTrainer, processes: int, *, fsdp: bool, deepspeed: bool):
    """The model to call, its optimizer (None: DeepSpeed's) and what counts, for one of so many processes."""
    if deepspeed:
        free_gradients(trainer)
        return trainer.accelerator.prepare_model(trainer.model), None, ""
    trainer.create_optimizer()
    if fsdp:
        return trainer.model, trainer.optimizer, f"MemTracker, FSDP2 in a fake group of {processes}"
    model, optimizer = trainer.accelerator.prepare(trainer.model, trainer.optimizer)
    if processes == 1:
        return model, optimizer, "MemTracker, one process"
    return in_buckets(model), optimizer, f"MemTracker, DDP in a fake group of {processes}"


def in_buckets(model: torch.nn.Module) -> torch.nn.Module:
    """DDP, which holds every gradient a second time; its first synchronisation would read the weights."""
    wrapped = torch.nn.parallel.DistributedDataParallel(model, init_sync=False)

    def reduced(_, bucket):  # a fake group's own answer holds no tensor
        future = torch.futures.Future()
        future.set_result(bucket.buffer())
        return future

    wrapped.register_comm_hook(None, reduced)
    return wrapped


def fully_sharded(trainer: StudentTrainer, config: ExperimentConfig) -> None:
    """accelerate's own FSDP2, as configs/accelerate_fsdp_8gpu.yaml asks for it; it refuses to run on a CPU by itself."""
    from accelerate.utils import FullyShardedDataParallelPlugin
    from accelerate.utils.fsdp_utils import fsdp2_prepare_model

    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        reshard_after_forward=True,
        auto_wrap_policy="transformer_based_wrap",
        cpu_ram_efficient_loading=False,
        state_dict_type="SHARDED_STATE_DICT",
    )
    precision = "bf16" if config.train.bf16 else "no"
    if config.train.bf16:
        plugin.set_mixed_precision(precision)
    asked = SimpleNamespace(
        state=SimpleNamespace(fsdp_plugin=plugin),
        mixed_precision=precision,
        is_main_process=False,
        device=trainer.args.device,
        torch_device_mesh=None,
    )
    with warnings.catch_warnings(action="ignore"):
        fsdp2_prepare_model(asked, trainer.model)


def free_gradients(trainer: StudentTrainer) -> None:
    """Drop each gradient once it is complete, as DeepSpeed, whose estimator counts what it keeps of them."""

    def drop(parameter: torch.Tensor) -> None:
        parameter.grad = None

    for parameter in trainer.model.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(drop)


def zero_states(trainer: StudentTrainer, stage: int, gpus: int, machines: int) -> tuple[int, int, str]:
    """Bytes of the trained weights as they are here, those that DeepSpeed says their states take, and who says so.

    Raises ImportError without DeepSpeed.
    """
    try:
        from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
        from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs
        from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs
    except ImportError:
        raise ImportError("DeepSpeed, whose estimator is asked, is not installed: pip install '.[train]'") from None
    require(stage in (2, 3), f"DeepSpeed has an estimator for ZeRO-2 and ZeRO-3, none for stage {stage}")
    trained = [p for p in trainer.model.parameters() if p.requires_grad]
    total, where = sum(p.numel() for p in trained), {"num_gpus_per_node": gpus, "num_nodes": machines}
    if stage == 3:
        layers = (list(m.parameters(recurse=False)) for m in trainer.model.modules())
        largest = max(sum(p.numel() for p in layer if p.requires_grad) for layer in layers)
        _, states, _ = estimate_zero3_model_states_mem_needs(
            total, largest, **where, cpu_offload=False, cpu_offload_params=False
        )
    else:
        _, states = estimate_zero2_model_states_mem_needs(total, **where, cpu_offload=False)
        bucket = DeepSpeedZeroConfig().reduce_bucket_size  # elements, which the estimator leaves out
        states += 2 * min(bucket, total)
    own = sum(local_bytes(p) for p in trained)
    return (
        own,
        states,
        f"DeepSpeed's estimator of ZeRO-{stage} states on {gpus * machines} GPUs, MemTracker for the rest",
    )


def local_bytes(tensor: torch.Tensor) -> int:
    """Bytes of a tensor on this process, as an allocator of 512-byte pieces gives them."""
    local = tensor.to_local() if isinstance(tensor, distributed.tensor.DTensor) else tensor
    return -(-local.nbytes // 512) * 512
