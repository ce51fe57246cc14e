"""A training step on tensors without data: what it holds at most, and what it computes.

torch's FakeTensorMode runs the real program on shapes alone, its MemTracker counts the storages alive, its
FlopCounterMode the operations. All three run on the CPU, so the answer is the same on every machine.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

aten = torch.ops.aten
# Operations whose result has as many rows as a mask has true positions; the mask is the second argument.
BY_MASK = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default)


# Memory that is filled later, for instance with gathered weights: not the result of anything known.
BLANK = (aten.empty.memory_format, aten.empty_strided.default)
MOST_REAL = 2**26  # elements; what is larger is no mask


class RealMasks(TorchDispatchMode):
    """Lets what no fake tensor takes part in, masks, orders and token ids, be computed for real.

    How many rows a loss has depends on the values of a mask, which a fake tensor does not have. Raises RuntimeError if a
    tensor of a model's size becomes real.
    """

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if DTensor in types:  # comes back as operations on its local part
            return NotImplemented
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        if func not in BLANK and not any(isinstance(tensor, FakeTensor) for tensor in tensors):
            with _disable_current_modes():
                found = func(*args, **kwargs)
            if isinstance(found, torch.Tensor) and found.numel() > MOST_REAL:
                raise RuntimeError(f"{func} of {tuple(found.shape)} was computed with data")
            return found
        if func in BY_MASK:
            args = (args[0], list(places(args[1])), *args[2:])
        return func(*args, **kwargs)


def places(indices: list[torch.Tensor | None]) -> Iterator[torch.Tensor | None]:
    """The indices with each real mask as the places where it is true."""
    for index in indices:
        if index is not None and index.dtype == torch.bool and not isinstance(index, FakeTensor):
            with _disable_current_modes():
                found = index.nonzero(as_tuple=True)
            yield from found
        else:
            yield index


class _NoModules:
    """In place of MemTracker's tracker of modules, whose hooks refuse weights without a gradient."""

    parents, is_bw = frozenset(), False

    def register_user_hooks(self, *hooks) -> None:
        pass

    def clear_user_hooks(self) -> None:
        pass

    def __enter__(self) -> "_NoModules":
        return self

    def __exit__(self, *_) -> None:
        pass


class StepMemory(MemTracker):
    """MemTracker of a whole step, not of its modules; bytes on all devices together, which are one here."""

    def __init__(self):
        super().__init__()
        self._mod_tracker = _NoModules()

    def held(self, when: str = "current") -> int:
        """Bytes now, or at the peak."""
        return sum(snapshot["Total"] for snapshot in self.get_tracker_snapshot(when).values())


def _attention_flops(query_shape, key_shape, value_shape, *_, **__) -> int:
    return sdpa_flop_count(query_shape, key_shape, value_shape)


def _attention_backward_flops(grad_shape, query_shape, key_shape, value_shape, *_, **__) -> int:
    # As torch counts its GPU kernels, which compute the scores again: five products for the forward's two.
    return sdpa_flop_count(query_shape, key_shape, value_shape) * 5 // 2


ATTENTION = {  # torch counts attention on GPUs alone
    aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
}


class FakeStep:
    """Gives models from the meta device fake weights (`made`), counts what is held beside them (`holding`), then what a step holds and
    computes (`running`)."""

    def __init__(self):
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        self.memory = StepMemory()
        self.counter = FlopCounterMode(display=False, custom_mapping=ATTENTION)

    def made(self, module: torch.nn.Module) -> torch.nn.Module:
        """The module, its weights fake ones on the CPU; it then stays there, since torch cannot move fakes."""
        weights: dict[int, torch.nn.Parameter] = {}
        for part in module.modules():
            for name, weight in part.named_parameters(recurse=False):
                if id(weight) not in weights:  # a tied one is met twice
                    with self.mode:
                        empty = torch.empty_like(weight, device="cpu")
                    weights[id(weight)] = torch.nn.Parameter(empty, requires_grad=weight.requires_grad)
                part._parameters[name] = weights[id(weight)]
        module.to = lambda *arguments, **options: module
        return module

    @contextmanager
    def holding(self, *held) -> Iterator[None]:
        """held: modules and tensors that are in memory already; what is made meanwhile stays in memory too."""
        self.memory.track_external(*held)
        with self.mode, self.memory:
            yield

    @contextmanager
    def running(self) -> Iterator[None]:
        with self.mode, self.memory, self.counter, RealMasks():
            yield

    @property
    def flops(self) -> int:
        return self.counter.get_total_flops()
