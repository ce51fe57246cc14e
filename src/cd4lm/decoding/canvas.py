"""The rows being decoded: prompts padded on the left, so that every answer starts at the same column.

Letters: n rows, P longest prompt, G gen_length, L = P + G columns, b block_length, S = E + G positions to decode, where
E is 0 unless prompts have masks to answer (infilling): then these come first, in blocks of their own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from cd4lm.decoding.config import DecodeConfig
from cd4lm.decoding.result import DecodeResult


@dataclass
class Row:
    """A row as the host sees it, without asking the device: its prompt, what seeds it, its first unfinished block, how
    many blocks it has open and how many its last step finished, its step within the block and steps in all."""

    index: int
    prompt: torch.Tensor
    row_id: int
    block: int = 0
    window: int = 1
    gained: int = 0
    step: int = 0
    taken: int = 0


@dataclass(frozen=True)
class Canvas:
    """State of the rows being decoded; every tensor has one entry per row."""

    gen_length: int
    index: torch.Tensor  # (n,) the row's place in the result, -1 where the row only fills the batch
    ids: torch.Tensor  # (n,) what its random numbers are drawn from
    offset: torch.Tensor  # (n,) tokens of the prompt that share the answer's first block, see start_canvas
    x: torch.Tensor  # (n, L)
    real: torch.Tensor  # (n, L) int64, 0 = padding before the prompt
    columns: torch.Tensor  # (n, S) where the positions to decode are in x, counted from its end: -G .. -1 come last
    masked: torch.Tensor  # (n, S) bool, not yet committed
    block: torch.Tensor  # (n,) first unfinished block, 0 = the answer's first, negative = masks of the prompt
    step: torch.Tensor  # (n,) step since a block was finished
    nfe: torch.Tensor  # (n,)
    commit_step: torch.Tensor  # (n, S)
    confidence: torch.Tensor  # (n, S) float32

    def tensors(self) -> dict[str, torch.Tensor]:
        return {name: value for name, value in vars(self).items() if name != "gen_length"}

    def take(self, rows: torch.Tensor | slice) -> "Canvas":
        """The rows named by an index, a mask or a slice."""
        return Canvas(self.gen_length, **{name: value[rows] for name, value in self.tensors().items()})

    def answer(self) -> torch.Tensor:
        """A view of the answer part of x, (n, G)."""
        return self.x[:, -self.gen_length :]

    def copy_(self, other: "Canvas") -> None:
        """Take over the state of another canvas of the same shape."""
        for name, value in self.tensors().items():
            value.copy_(other.tensors()[name])


def start_canvas(rows: Sequence[Row], config: DecodeConfig, device: torch.device, grid: str | None = None) -> Canvas:
    """All prompts on the left of an all-mask answer.

    grid: "absolute" counts blocks from the row's first token, so that the answer's first block has the prompt's last
    tokens in it and its last block may be short; anything else counts from where the answer starts.
    """
    n, G, b = len(rows), config.gen_length, config.block_length
    absolute = grid == "absolute"
    P = max(row.prompt.numel() for row in rows)
    x = torch.full((n, P + G), config.mask_id)
    real = torch.zeros(n, P + G, dtype=torch.long)
    for i, row in enumerate(rows):
        x[i, P - row.prompt.numel() : P] = row.prompt
        real[i, P - row.prompt.numel() :] = 1
    holes = [((x[i] == config.mask_id) & (real[i] == 1))[:P].nonzero()[:, 0] - (P + G) for i in range(n)]
    before = [-(-len(hole) // b) for hole in holes]  # blocks of prompt masks, rounded up
    width = G + b if absolute else G  # room for the prompt's share of the first block
    S = max(before) * b + width
    columns = torch.full((n, S), -1)
    columns[:, -width:] = torch.arange(-width, 0)
    for i, hole in enumerate(holes):
        columns[i, S - G - len(hole) : S - G] = hole
    masked = torch.arange(S) >= S - G - torch.tensor([len(hole) for hole in holes])[:, None]
    on_device = {
        "index": torch.tensor([row.index for row in rows]),
        "ids": torch.tensor([row.row_id for row in rows]),
        "offset": torch.tensor([row.prompt.numel() % b if absolute else 0 for row in rows]),
        "x": x,
        "real": real,
        "columns": columns,
        "masked": masked,
        "block": -torch.tensor(before),
        "step": torch.zeros(n, dtype=torch.long),
        "nfe": torch.zeros(n, dtype=torch.long),
        "commit_step": torch.full((n, S), -1),
        "confidence": torch.zeros(n, S),
    }
    return Canvas(G, **{name: value.to(device) for name, value in on_device.items()})


def fit(canvas: Canvas, length: int, positions: int, config: DecodeConfig) -> Canvas:
    """The canvas with `length` columns and `positions` to decode, padding added or taken away on the left."""
    fill = {"x": config.mask_id, "real": 0, "columns": -1, "masked": False, "commit_step": -1, "confidence": 0}
    fitted = {}
    for name, value in canvas.tensors().items():
        if name in fill:
            width = length if name in ("x", "real") else positions
            value = F.pad(value, (width - value.shape[1], 0), value=fill[name])
        fitted[name] = value
    return Canvas(canvas.gen_length, **fitted)


def join(canvases: Sequence[Canvas], length: int, config: DecodeConfig) -> Canvas:
    """One canvas of all rows, `length` columns wide."""
    positions = max(canvas.masked.shape[1] for canvas in canvases)
    parts = [fit(canvas, length, positions, config).tensors() for canvas in canvases]
    return Canvas(config.gen_length, **{name: torch.cat([part[name] for part in parts]) for name in parts[0]})


def is_eos(tokens: torch.Tensor, eos_ids: torch.Tensor) -> torch.Tensor:
    """Which tokens (...) are one of eos_ids (E,); torch.isin may sort, which no CUDA graph can hold."""
    return (tokens[..., None] == eos_ids).any(dim=-1)


def first_true(flags: torch.Tensor) -> torch.Tensor:
    """Index of the first true entry of each row, or the row's length: bool (n, G) -> (n,)."""
    return torch.where(flags.any(dim=1), flags.int().argmax(dim=1), flags.shape[1])


def first_eos(canvas: Canvas, eos_ids: torch.Tensor) -> torch.Tensor:
    """Place in the answer of the first committed EOS, or G: (n,)."""
    return first_true(is_eos(canvas.answer(), eos_ids) & ~canvas.masked[:, -canvas.gen_length :])


def block_places(canvas: Canvas, b: int) -> torch.Tensor:
    """Which block each position to decode is in, (n, S), counted from the first that a row of this width can have."""
    places = torch.arange(canvas.masked.shape[1], device=canvas.x.device) + canvas.offset[:, None]
    return places.div(b, rounding_mode="floor")


def committed_share(canvas: Canvas, b: int) -> torch.Tensor:
    """Committed share of the tokens to decode of each block, float64 (n, K); 1 where a block has none."""
    n, S = canvas.masked.shape
    counts, places = canvas.block.new_zeros(n, S // b + 1), block_places(canvas, b)
    left = counts.scatter_add(1, places, canvas.masked.long())
    done = counts.scatter_add(1, places, (canvas.commit_step >= 0).long())
    return torch.where(left > 0, done.double() / (left + done), 1.0)


def fill_after_eos(tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """tokens (n, G) with everything after place lengths (n,) replaced by the token there."""
    G = tokens.shape[1]
    end = tokens.gather(1, lengths.clamp(max=G - 1)[:, None])
    return torch.where(torch.arange(G, device=tokens.device) > lengths[:, None], end, tokens)


def result_of(canvas: Canvas, eos_ids: torch.Tensor, config: DecodeConfig) -> DecodeResult:
    """What the rows of a finished canvas amount to."""
    G = config.gen_length
    tokens, lengths = canvas.answer(), first_eos(canvas, eos_ids)
    if config.stop_at_eos:
        tokens = fill_after_eos(tokens, lengths)
    steps, nfe = canvas.commit_step.cpu(), canvas.nfe.cpu()
    before, real = canvas.x[:, :-G].cpu(), canvas.real[:, :-G].cpu().bool()
    return DecodeResult(
        index=canvas.index.cpu(),
        tokens=tokens.cpu(),
        nfe=nfe,
        lengths=lengths.cpu(),
        commits=[torch.bincount(r[r >= 0], minlength=n).tolist() for r, n in zip(steps, nfe.tolist(), strict=True)],
        commit_step=steps[:, -G:],
        confidence=canvas.confidence[:, -G:].cpu(),
        prompts=[row[kept] for row, kept in zip(before, real, strict=True)],
    )
