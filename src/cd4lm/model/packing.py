"""The head's weight in the order in which a CPU reads it, for steps that read few rows.

A step that recomputes one block multiplies 32 rows with a weight of the whole vocabulary. In the checkpoint's order that
takes twice the time that the operations need, since the product first reorders what it reads. oneDNN can do so once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from cd4lm.model.llada import DiffusionLM


def pack_head(network: DiffusionLM, rows: int = 32) -> None:
    """Let the head of a network on a CPU multiply with a reordered copy of its weight, best for so many rows at a time.

    The copy takes as much memory as the weight. Sums are taken in another order: logits differ in their last digits
    (about 1e-6 of the largest), so that a token may change where two are as good as equal. Not for training: the
    copy does not follow the weight. Raises ValueError where there is no oneDNN or the weight is not float32 on a CPU.
    """
    head = network.get_output_embeddings()
    weight = head.weight
    if not torch.backends.mkldnn.is_available():
        raise ValueError("packing the head needs a PyTorch with oneDNN: leave it out")
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        raise ValueError(f"packing the head is for float32 on a CPU, not {weight.dtype} on {weight.device.type}")
    head.packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), rows)


@contextmanager
def packed_head(network: DiffusionLM, rows: int = 32) -> Iterator[None]:
    """pack_head for a while."""
    pack_head(network, rows)
    try:
        yield
    finally:
        network.get_output_embeddings().packed = None
