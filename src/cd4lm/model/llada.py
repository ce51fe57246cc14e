"""LLaDA: a masked diffusion transformer whose module names are the keys of the released checkpoints.

`Block` and `DiffusionLM` are the arithmetic; a backbone says where its checkpoint keeps the parts (see also decoder.py).
Everything here is torch only and decodes as it is; pretrained.py makes transformers' models of the same networks.

Letters in shapes: B batch, L sequence, d d_model, H heads, K key/value heads, D head dim, V embedding_size.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from cd4lm.diffusion.attention import block_causal, block_of, positions_of, visible_keys
from cd4lm.model.configuration import DiffusionConfig, LLaDAFields


@dataclass
class Output:
    """What one forward pass returns.

    logits: (B, L, V), or only the rows asked for with `logits_at`.
    last_hidden_state: (B, L, d) after the final norm, what the head reads for each token; (B, n, d) with an integer
        `logits_at`, since the last block then computes those rows only.
    hidden_states: n_layers + 1 tensors (B, L, d) when asked for: embeddings, then each block's output before the norm.
    reduced: what `reduce` made of the rows, in place of logits, when it was given.
    """

    logits: torch.Tensor | None = None
    last_hidden_state: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    reduced: torch.Tensor | None = None


class Linear(nn.Linear):
    """nn.Linear that draws no initial weights on the meta device, where loading builds the network."""

    def reset_parameters(self) -> None:
        if not self.weight.is_meta:
            super().reset_parameters()


class Embedding(nn.Embedding):
    """nn.Embedding, as Linear."""

    def reset_parameters(self) -> None:
        if not self.weight.is_meta:
            super().reset_parameters()


class RMSNorm(nn.Module):
    """Root-mean-square norm, computed in float32 since bf16 squares lose the mean."""

    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.to(x.dtype)


def rotary_angles(positions: torch.Tensor, head_dim: int, theta: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine and sine (B, 1, L, D/2), float32, of RoPE for integer positions (B, L)."""
    exponents = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32) / head_dim
    angles = (positions[..., None].float() / theta**exponents)[:, None]  # (B, 1, L, D/2)
    return angles.cos(), angles.sin()


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Apply RoPE to x (B, H, L, D), computed in the dtype of cos and sin: float32, or what a backbone was trained in."""
    first, second = x.to(cos.dtype).chunk(2, dim=-1)  # (B, H, L, D/2)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)


class Block(nn.Module):
    """Pre-norm attention and SwiGLU on parts that a backbone names.

    transformers' gradient_checkpointing_enable sets the two attributes below on every module that has the first.
    """

    gradient_checkpointing = False
    _gradient_checkpointing_func: Callable | None = None

    def __init__(self, config: DiffusionConfig):
        super().__init__()
        self.n_heads, self.n_kv_heads, self.head_dim = config.n_heads, config.n_kv_heads, config.head_dim

    def attend(self, x, cos, sin, allowed, cache, at):
        B, L, _ = x.shape
        queries = rows(x, at)  # (B, n, d)
        q = self.q_proj(queries).view(B, -1, self.n_heads, self.head_dim).transpose(1, 2)  # (B, H, n, D)
        k = self.k_proj(x).view(B, L, self.n_kv_heads, self.head_dim).transpose(1, 2)  # (B, K, L, D)
        v = self.v_proj(x).view(B, L, self.n_kv_heads, self.head_dim).transpose(1, 2)  # (B, K, L, D)
        q, k = rotate(q, rows(cos[:, 0], at)[:, None], rows(sin[:, 0], at)[:, None]), rotate(k, cos, sin)
        if cache is not None:
            k, v = cache.update(k, v)  # (B, K, all columns, D)
        if at is not None and allowed is not None and allowed.shape[2] > 1:
            allowed = rows(allowed[:, 0], at)[:, None]  # (B, 1, n, all columns)
        grouped = self.n_heads != self.n_kv_heads
        if grouped and allowed is not None:  # with a mask the fused GPU kernels take no grouped heads
            k, v = (t.repeat_interleave(self.n_heads // self.n_kv_heads, dim=1) for t in (k, v))  # (B, H, L, D)
            grouped = False
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, enable_gqa=grouped)  # (B, H, n, D)
        return self.attn_out(out.transpose(1, 2).flatten(2))

    def forward(self, x, cos, sin, allowed, cache=None, at=None):
        """Every column (B, L, d), or those at `at` (B, n) only: the last block has no other reader than the head."""
        arguments = (x, cos, sin, allowed, cache, at)
        if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
            # Around the arithmetic and not around the module: hooks (FSDP2's gather weights) run once, not twice.
            return self._gradient_checkpointing_func(self.compute, *arguments)
        return self.compute(*arguments)

    def compute(self, x, cos, sin, allowed, cache, at):
        """What `forward` returns, recomputed in the backward pass under gradient checkpointing."""
        x = rows(x, at) + self.attend(self.attn_norm(x), cos, sin, allowed, cache, at)
        h = self.ff_norm(x)
        return x + self.ff_out(F.silu(self.ff_proj(h)) * self.up_proj(h))


class OutputHead(Linear):
    """Logits (..., V) of rows (..., d), or reduce(rows, weight (V, d)) where logits would not fit in memory.

    The reduction runs inside this forward because a sharding launcher gathers the weight for that long and no longer.
    packed: the weight in oneDNN's order, to multiply with instead (cd4lm.model.packing).
    """

    packed: torch.Tensor | None = None

    def forward(self, rows: torch.Tensor, reduce: Callable | None = None) -> torch.Tensor:
        if reduce is not None:
            return reduce(rows, self.weight)
        if self.packed is not None:
            return torch.ops.mkldnn._linear_pointwise(rows, self.packed, None, "none", [], "")
        return super().forward(rows)


class LLaDABlock(Block):
    """The parts under LLaDA's names, without biases."""

    def __init__(self, config: LLaDAFields):
        super().__init__(config)
        d, hidden, kv = config.d_model, config.mlp_hidden_size, config.n_kv_heads * config.head_dim
        self.attn_norm = RMSNorm(d, config.rms_norm_eps)
        self.q_proj = Linear(d, d, bias=False)
        self.k_proj = Linear(d, kv, bias=False)
        self.v_proj = Linear(d, kv, bias=False)
        self.attn_out = Linear(d, d, bias=False)
        self.ff_norm = RMSNorm(d, config.rms_norm_eps)
        self.ff_proj = Linear(d, hidden, bias=False)
        self.up_proj = Linear(d, hidden, bias=False)
        self.ff_out = Linear(hidden, d, bias=False)


class LLaDATransformer(nn.Module):
    """Holds `transformer.*` so that keys read `model.transformer.blocks.0.q_proj.weight` as released."""

    def __init__(self, config: LLaDAFields):
        super().__init__()
        self.transformer = nn.ModuleDict(
            {
                "wte": Embedding(config.embedding_size, config.d_model),
                "blocks": nn.ModuleList(LLaDABlock(config) for _ in range(config.n_layers)),
                "ln_f": RMSNorm(config.d_model, config.rms_norm_eps),
                "ff_out": OutputHead(config.d_model, config.embedding_size, bias=False),
            }
        )


class DiffusionLM(nn.Module):
    """A masked diffusion model with its output head; logits at position i predict token i, whatever the backbone.

    What a position sees is the configuration's: every other, or no block after its own. Subclasses build their parts
    and have `embedding`, `blocks`, `final_norm` and the output embeddings. output: the class that `forward` returns.
    copies: by its name each weight that is another one, which a checkpoint holds once, under the other name.
    """

    output = Output
    copies: dict[str, str] = {}

    def __init__(self, config: DiffusionConfig):
        super().__init__()
        self.config = config
        self.build(config)

    def build(self, config: DiffusionConfig) -> None:
        """Make the parts, named as the checkpoint's keys."""
        raise NotImplementedError

    def tie(self) -> None:
        """Make the weights that are copies the same parameters as their originals."""
        for copy, original in self.copies.items():
            module, _, name = copy.rpartition(".")
            setattr(self.get_submodule(module), name, self.get_parameter(original))

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embedding

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits (..., V) of final hidden states (..., d)."""
        return self.get_output_embeddings()(hidden)

    def visible(self, attention_mask, positions, cache, prompt_length, block_length, attention) -> torch.Tensor | None:
        """Which keys each query sees, bool broadcasting to (B, H, L, all columns); None = all. See `forward`."""
        real = None if attention_mask is None else visible_keys(attention_mask)  # (B, 1, 1, L)
        if (self.config.attention if attention is None else attention) == "bidirectional":
            return real
        if self.config.block_grid == "absolute":
            origin = positions.new_zeros(1)
        elif prompt_length is not None:
            origin = prompt_length
        else:
            raise ValueError("this checkpoint's blocks start where the answer starts: pass prompt_length")
        everywhere = positions if cache is None else positions_of(attention_mask, attention_mask)
        block_length = self.config.block_length if block_length is None else block_length
        earlier = block_causal(block_of(positions, origin, block_length), block_of(everywhere, origin, block_length))
        return earlier if real is None else earlier & real

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        logits_at: torch.Tensor | None = None,
        output_hidden_states: bool = False,
        positions: torch.Tensor | None = None,
        cache=None,
        prompt_length: torch.Tensor | None = None,
        block_length: int | None = None,
        attention: str | None = None,
        reduce: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
    ) -> Output:
        """Predict the token at every position.

        input_ids: (B, L). attention_mask: (B, L), 0 = padding on either side, which changes nothing elsewhere.
        cache: where each layer leaves its keys and values and finds those of all columns (cd4lm.decoding.caches);
        input_ids then holds only the columns to recompute, positions (B, L) their places, attention_mask all columns.
        logits_at: apply the head there only; bool (B, L) gives logits (N, V) of the N true positions in order,
        integer (B, n) gives logits (B, n, V) of those positions of each row. Where outputs are shifted, the column
        before must be there too.
        prompt_length: (B,) tokens before the answer, needed if blocks start there. block_length, attention: default the
        config's; a bidirectional teacher and its block-causal student may be the same weights.
        reduce: called with those rows (N, d) and the head's weight (V, d) in place of the head; no logits are built.
        """
        if positions is None:
            positions = positions_of(input_ids, attention_mask)
        allowed = self.visible(attention_mask, positions, cache, prompt_length, block_length, attention)
        x = self.embedding(input_ids)  # (B, L, d)
        angles = rotary_angles(positions, self.config.head_dim, self.config.rope_theta)
        cos, sin = angles if self.config.rope_full_precision else (part.to(x.dtype) for part in angles)
        states = [x]
        some = logits_at is not None and logits_at.dtype != torch.bool and not output_hidden_states
        source = output_columns(positions, self.config.output_shift)
        wanted = rows(source[..., None], logits_at)[..., 0] if some and source is not None else logits_at
        for i, block in enumerate(self.blocks):
            last = wanted if some and i == self.config.n_layers - 1 else None
            x = block(x, cos, sin, allowed, None if cache is None else cache.layer(i), last)
            if output_hidden_states:
                states.append(x)
        x = self.final_norm(x) if some else rows(self.final_norm(x), source)
        chosen = x if some else rows(x, logits_at)
        return self.output(
            logits=self.head(chosen) if reduce is None else None,
            last_hidden_state=x,
            hidden_states=tuple(states) if output_hidden_states else None,
            reduced=None if reduce is None else self.get_output_embeddings()(chosen, reduce),
        )


class LLaDA(DiffusionLM):
    """LLaDA: the output at position i predicts token i."""

    def build(self, config: LLaDAFields) -> None:
        self.model = LLaDATransformer(config)

    @property
    def embedding(self) -> nn.Embedding:
        return self.model.transformer["wte"]

    @property
    def blocks(self) -> nn.ModuleList:
        return self.model.transformer["blocks"]

    @property
    def final_norm(self) -> RMSNorm:
        return self.model.transformer["ln_f"]

    def get_output_embeddings(self) -> nn.Linear:
        return self.model.transformer["ff_out"]


def output_columns(positions: torch.Tensor, shift: int) -> torch.Tensor | None:
    """Column of the output that predicts each token, from positions (B, L); None = its own, for all.

    With a shift of 1 it is the column before; a row's first token has none before it and keeps its own (Dream).
    """
    if shift == 0:
        return None
    own = torch.arange(positions.shape[1], device=positions.device)
    return (own - shift * (positions > 0)).clamp(min=0)  # (B, L)


def rows(hidden: torch.Tensor, at: torch.Tensor | None) -> torch.Tensor:
    """The rows of hidden (B, L, d) named by `logits_at` of DiffusionLM.forward."""
    if at is None:
        return hidden
    if at.dtype == torch.bool:
        return hidden[at]  # (N, d)
    B = max(len(hidden), len(at))  # without padding one row of angles or places serves all
    return hidden.expand(B, -1, -1).gather(1, at[..., None].expand(B, -1, hidden.shape[-1]))  # (B, n, d)
