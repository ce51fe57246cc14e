"""Which key may be seen by which query, as predicates on indices that join by & and |."""

import torch


def visible_keys(attention_mask: torch.Tensor) -> torch.Tensor:
    """Every query sees every key that is not padding: (B, L), 0 = padding -> bool (B, 1, 1, L)."""
    return attention_mask.bool()[:, None, None, :]


def block_causal(query_block: torch.Tensor, key_block: torch.Tensor) -> torch.Tensor:
    """Every query sees its own block, both ways, and the blocks before: (B, q), (B, L) -> bool (B, 1, q, L)."""
    return key_block[:, None, None, :] <= query_block[:, None, :, None]


def block_of(positions: torch.Tensor, origin: torch.Tensor, block_length: int) -> torch.Tensor:
    """Block of each position (B, L) on a grid that starts at position origin (B,); -1 is all that comes before it."""
    return (positions - origin[:, None]).div(block_length, rounding_mode="floor").clamp(min=-1)


def positions_of(input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """Positions (B, L) counted over real tokens, so that left padding gives the angles of the unpadded row."""
    if attention_mask is None:
        return torch.arange(input_ids.shape[1], device=input_ids.device)[None]  # (1, L)
    return (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)
