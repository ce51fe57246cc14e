"""Several processes, one GPU each, started by torchrun or accelerate."""

from datetime import timedelta

import torch
from accelerate import PartialState
from lm_eval.api.model import TemplateLM


def join_processes() -> PartialState:
    """This process's place among those that accelerate or torchrun started; each has its own GPU."""
    # Processes finish their shares at different times, and the first to wait must not give up on the last.
    return PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(hours=24))


class ProcessesLM(TemplateLM):
    """What lm-eval asks of a model in several processes: it gives each a share of the documents and gathers results."""

    def __init__(self):
        super().__init__()
        self.state = join_processes()
        self._rank, self._world_size = self.state.process_index, self.state.num_processes
        self._device = self.state.device

    def all_gather(self, tensor: torch.Tensor) -> torch.Tensor:
        if self.world_size == 1:
            return tensor
        parts = [torch.empty_like(tensor) for _ in range(self.world_size)]
        torch.distributed.all_gather(parts, tensor.contiguous())
        return torch.stack(parts) if tensor.ndim == 0 else torch.cat(parts)

    def gather_object(self, obj, dst: int = 0) -> list | None:
        if self.world_size == 1:
            return [obj]
        parts = [None] * self.world_size if self.rank == dst else None
        torch.distributed.gather_object(obj, parts, dst=dst)
        return parts

    def barrier(self) -> None:
        self.state.wait_for_everyone()
