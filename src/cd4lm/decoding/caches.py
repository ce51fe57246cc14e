"""What is recomputed at each step. A cache stores and decides nothing: the engine says which rows refresh.

`none` and `plain` recompute everything and are exact. On a bidirectional model every reuse of keys and values is
approximate, since a token committed anywhere changes the keys and values everywhere: `prefix` and `dual` trade answers
for speed (Fast-dLLM, Wu et al. 2025). On a block-causal model no block depends on a later one: `block` is exact (CDLM).
Letters: m rows of a forward, L canvas columns, w columns recomputed, b block length, K key/value heads, D head dim.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from cd4lm.decoding.key_values import KeyValues
from cd4lm.diffusion.attention import positions_of


class Group(NamedTuple):
    """Rows that share one forward: which (None = all of them), columns recomputed per row, from the first or not."""

    rows: tuple[int, ...] | None
    width: int
    full: bool


class NoCache:
    """Recompute the whole canvas, with the head on the current block only: exact for every model."""

    reads_all = False  # whether logits cover the canvas rather than the current block

    def __init__(self, config):
        self.config = config

    def plan(
        self,
        blocks: Sequence[int],
        refresh: Sequence[bool],
        L: int,
        split: bool,
        window: int = 1,
        gained: Sequence[int] = (),
    ) -> tuple[Group, ...]:
        """The forwards of the coming step, given each row's block and whether its whole canvas is to be recomputed.

        split: rows that refresh may have a forward of their own; without it one forward of one shape serves all.
        window: open blocks of the row with the most; gained: blocks that each row's last step finished.
        """
        return (Group(None, L, True),)

    def rearranged(self, model, keep: Sequence[int], n: int, L: int) -> "NoCache":
        """A cache of n rows and L columns, aligned on the right, whose first rows are this one's rows `keep`."""
        return self

    def copy_(self, other: "NoCache") -> None:
        """Take over what another cache of the same shape holds."""

    def logits(self, model, x, real, at, refresh, plan) -> torch.Tensor:
        """Logits (m, b, V) at columns `at` (m, b) of canvas x (m, L); real (m, L) 0 = padding, None = there is none.

        refresh: (m,) bool, rows whose whole canvas is recomputed. plan: what `plan` returned.
        """
        lengths, b = self.prompt_length(x, real), self.config.block_length
        return model(input_ids=x, attention_mask=real, logits_at=at, prompt_length=lengths, block_length=b).logits

    def prompt_length(self, x: torch.Tensor, real: torch.Tensor | None) -> torch.Tensor:
        """Tokens of each prompt (m,), from which a block-causal model tells where its blocks start."""
        P = x.shape[1] - self.config.gen_length
        return x.new_full((len(x),), P) if real is None else real[:, :P].sum(dim=1)


class Plain(NoCache):
    """As published: logits of every position of the canvas. What the other modes are measured against."""

    reads_all = True

    def logits(self, model, x, real, at, refresh, plan) -> torch.Tensor:
        return super().logits(model, x, real, None, refresh, plan)


class PrefixCache(NoCache):
    """Approximate: keep keys and values of what comes before the current block, recompute from there to the end.

    A refresh recomputes and stores the whole canvas. Buffers change shape only when rows come or go. They have one
    column more than the canvas, where forwards leave what is not to be stored, so that every shape is static.
    """

    def __init__(self, config):
        super().__init__(config)
        self.copies = 2 if config.cfg_scale > 0 else 1  # guidance has a second, prompt-less canvas of every row
        self.keys: torch.Tensor | None = None  # (n_layers, n, K, L + 1, D)
        self.values: torch.Tensor | None = None

    def width(self, block: int) -> int:
        """Columns recomputed without a refresh, from the start of the block."""
        return self.config.gen_length - block * self.config.block_length

    def own(self, columns: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
        """Which columns (m, w) are stored without a refresh, for blocks that start at column (m, 1)."""
        return columns >= start

    def span(self, group: Group, at: torch.Tensor, before: int) -> tuple[torch.Tensor, int]:
        """First column (m, 1) of a forward for the blocks at columns `at` (m, b), and how many columns it has.

        before: columns before the block whose outputs its first tokens are read from.
        """
        start = at[:, :1]
        return (torch.zeros_like(start), group.width) if group.full else (start - before, group.width + before)

    def plan(self, blocks, refresh, L, split, window=1, gained=()) -> tuple[Group, ...]:
        n = len(blocks)
        if all(refresh) or (any(refresh) and not split):
            return (Group(None, L, True),)
        stay = tuple(i for i in range(n) if not refresh[i])
        width = max(self.width(blocks[i]) for i in stay)
        if not any(refresh):
            return (Group(None, width, False),)
        return (Group(tuple(i for i in range(n) if refresh[i]), L, True), Group(stay, width, False))

    def rearranged(self, model, keep: Sequence[int], n: int, L: int) -> "PrefixCache":
        c = model.config
        weight = model.get_output_embeddings().weight
        shape = (c.n_layers, n * self.copies, c.n_kv_heads, L + 1, c.d_model // c.n_heads)
        new = type(self)(self.config)
        new.keys, new.values = weight.new_zeros(shape), weight.new_zeros(shape)
        if not keep:
            return new
        before, length = self.keys.shape[1] // self.copies, min(L, self.keys.shape[3] - 1)
        for copy in range(self.copies):
            source = torch.tensor(keep, device=weight.device) + copy * before
            target = slice(copy * n, copy * n + len(keep))
            for mine, theirs in ((new.keys, self.keys), (new.values, self.values)):
                mine[:, target, :, L - length : L] = theirs[:, source, :, -1 - length : -1]
        return new

    def copy_(self, other: "PrefixCache") -> None:
        self.keys.copy_(other.keys)
        self.values.copy_(other.values)

    def logits(self, model, x, real, at, refresh, plan) -> torch.Tensor:
        if len(plan) == 1:
            return self.forward(model, x, real, at, refresh, None, plan[0])
        n, parts, order = x.shape[0] // self.copies, [], []
        for group in plan:
            members = [i + copy * n for copy in range(self.copies) for i in group.rows]
            rows = torch.tensor(members, device=x.device)
            some_real = None if real is None else real[rows]
            parts.append(self.forward(model, x[rows], some_real, at[rows], refresh[rows], rows, group))
            order += members
        back = torch.tensor(sorted(range(len(order)), key=order.__getitem__), device=x.device)
        return torch.cat(parts)[back]

    def forward(self, model, x, real, at, refresh, rows, group: Group) -> torch.Tensor:
        """One forward of the rows (None = all) of a group; the other arguments hold these rows only."""
        m, L = x.shape
        first, width = self.span(group, at, model.config.output_shift)
        columns = first + torch.arange(width, device=x.device)  # (m, w)
        stored = (self.own(columns, at[:, :1]) | refresh[:, None]) & (columns >= 0) & (columns < L)
        # Rows at another block than the widest have columns outside: they repeat the outermost and are not stored.
        write = torch.where(stored, columns, L)
        columns = columns.clamp(min=0, max=L - 1)
        return model(
            input_ids=x.gather(1, columns),
            attention_mask=real,
            logits_at=at - first,
            positions=positions_of(x, real).expand(m, L).gather(1, columns),
            cache=KeyValues(self.keys, self.values, rows, write),
            prompt_length=self.prompt_length(x, real),
            block_length=self.config.block_length,
        ).logits


class DualCache(PrefixCache):
    """Approximate: as prefix, and keys and values of the later, all-mask blocks are kept too."""

    def width(self, block: int) -> int:
        return self.config.block_length

    def own(self, columns: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
        return (columns >= start) & (columns < start + self.config.block_length)


class BlockCache(PrefixCache):
    """Exact on a block-causal model: keep keys and values of prompt and finished blocks, recompute the open ones.

    A block that the last step finished was computed with masks: the next step recomputes it too, and so does a row's
    first with its prompt. An open block may be finished before the one before it; it is not kept until that is too,
    since its keys and values still change. Columns after the open blocks are never computed.
    """

    def plan(self, blocks, refresh, L, split, window=1, gained=()) -> tuple[Group, ...]:
        b, P = self.config.block_length, L - self.config.gen_length
        first = [starts and block == 0 for block, starts in zip(blocks, refresh, strict=True)]
        if not split:  # few shapes: a power of two
            gained = [1 << (more - 1).bit_length() if more else 0 for more in gained]
        widths = [window * b + (P if new else more * b) for new, more in zip(first, gained, strict=True)]
        if not split or len(set(widths)) == 1:
            return (Group(None, max(widths), False),)
        rows_of = {width: tuple(i for i, w in enumerate(widths) if w == width) for width in widths}
        return tuple(Group(rows, width, False) for width, rows in rows_of.items())

    def own(self, columns: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
        return torch.ones_like(columns, dtype=torch.bool)  # whatever is recomputed is exact

    def span(self, group: Group, at: torch.Tensor, before: int) -> tuple[torch.Tensor, int]:
        width = group.width + before
        return at[:, -1:] + 1 - width, width

    def forward(self, model, x, real, at, refresh, rows, group: Group) -> torch.Tensor:
        real = torch.ones_like(x) if real is None else real  # the blocks of all keys are told by counting real tokens
        return super().forward(model, x, real, at, refresh, rows, group)


CLASSES = {"none": NoCache, "plain": Plain, "prefix": PrefixCache, "dual": DualCache, "block": BlockCache}
