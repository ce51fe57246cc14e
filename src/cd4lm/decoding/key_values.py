"""Where a forward that recomputes some columns leaves keys and values, and finds those of all columns.

Letters: m rows of a forward, w columns recomputed, L canvas columns, n rows stored, K key/value heads, D head dim.
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class KeyValues:
    """What one forward writes where: buffers (n_layers, n, K, L + 1, D), rows (m,) or all, columns write (m, w)."""

    keys: torch.Tensor
    values: torch.Tensor
    rows: torch.Tensor | None
    write: torch.Tensor

    def layer(self, i: int) -> "LayerKeyValues":
        return LayerKeyValues(self.keys[i], self.values[i], self.rows, self.write)


@dataclass(frozen=True)
class LayerKeyValues:
    keys: torch.Tensor  # (n, K, L + 1, D)
    values: torch.Tensor
    rows: torch.Tensor | None
    write: torch.Tensor  # (m, w)

    def update(self, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Store k and v (m, K, w, D), return those of all columns (m, K, L, D)."""
        return self.store(self.keys, k), self.store(self.values, v)

    def store(self, buffer: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        if self.rows is None:
            buffer.scatter_(2, self.write[:, None, :, None].expand_as(new), new)
            return buffer[:, :, :-1]
        buffer[self.rows[:, None], :, self.write] = new.transpose(1, 2)
        return buffer[self.rows, :, :-1]
