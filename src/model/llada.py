"""LLaDA: a bidirectional transformer whose module names are the keys of the released checkpoints.

Letters in shapes: B batch, L sequence, d d_model, H heads, K key/value heads, D head dim, V embedding_size.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import ModelOutput

from src.diffusion.attention import positions_of, visible_keys
from src.model.checkpoint import check_folder, check_loading
from src.model.configuration import LLaDAConfig


@dataclass
class LLaDAOutput(ModelOutput):
    """What one forward pass returns.

    logits: (B, L, V), or only the rows asked for with `logits_at`.
    last_hidden_state: (B, L, d) after the final norm, what the head reads; (B, n, d) with an integer `logits_at`,
        since the last block then computes those rows only.
    hidden_states: n_layers + 1 tensors (B, L, d) when asked for: embeddings, then each block's output before the norm.
    """

    logits: torch.Tensor | None = None
    last_hidden_state: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None


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
    """Apply RoPE to x (B, H, L, D) in float32: bf16 angles are off by whole positions in long sequences."""
    first, second = x.float().chunk(2, dim=-1)  # (B, H, L, D/2)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)


class LLaDABlock(GradientCheckpointingLayer):
    """Pre-norm attention and SwiGLU, no biases."""

    def __init__(self, config: LLaDAConfig):
        super().__init__()
        d, hidden = config.d_model, config.mlp_hidden_size
        self.n_heads, self.n_kv_heads = config.n_heads, config.n_kv_heads
        self.head_dim = d // config.n_heads
        self.attn_norm = RMSNorm(d, config.rms_norm_eps)
        self.q_proj = nn.Linear(d, d, bias=False)
        self.k_proj = nn.Linear(d, self.n_kv_heads * self.head_dim, bias=False)
        self.v_proj = nn.Linear(d, self.n_kv_heads * self.head_dim, bias=False)
        self.attn_out = nn.Linear(d, d, bias=False)
        self.ff_norm = RMSNorm(d, config.rms_norm_eps)
        self.ff_proj = nn.Linear(d, hidden, bias=False)
        self.up_proj = nn.Linear(d, hidden, bias=False)
        self.ff_out = nn.Linear(hidden, d, bias=False)

    def attend(self, x, cos, sin, allowed, cache, at):
        B, L, _ = x.shape
        queries = rows(x, at)  # (B, n, d)
        q = self.q_proj(queries).view(B, -1, self.n_heads, self.head_dim).transpose(1, 2)  # (B, H, n, D)
        k = self.k_proj(x).view(B, L, self.n_kv_heads, self.head_dim).transpose(1, 2)  # (B, K, L, D)
        v = self.v_proj(x).view(B, L, self.n_kv_heads, self.head_dim).transpose(1, 2)  # (B, K, L, D)
        q, k = rotate(q, rows(cos[:, 0], at)[:, None], rows(sin[:, 0], at)[:, None]), rotate(k, cos, sin)
        if cache is not None:
            k, v = cache.update(k, v)  # (B, K, all columns, D)
        grouped = self.n_heads != self.n_kv_heads
        if grouped and allowed is not None:  # with a mask the fused GPU kernels take no grouped heads
            k, v = (t.repeat_interleave(self.n_heads // self.n_kv_heads, dim=1) for t in (k, v))  # (B, H, L, D)
            grouped = False
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, enable_gqa=grouped)  # (B, H, n, D)
        return self.attn_out(out.transpose(1, 2).flatten(2))

    def forward(self, x, cos, sin, allowed, cache=None, at=None):
        """Every column (B, L, d), or those at `at` (B, n) only: the last block has no other reader than the head."""
        x = rows(x, at) + self.attend(self.attn_norm(x), cos, sin, allowed, cache, at)
        h = self.ff_norm(x)
        return x + self.ff_out(F.silu(self.ff_proj(h)) * self.up_proj(h))


class LLaDATransformer(nn.Module):
    """Holds `transformer.*` so that keys read `model.transformer.blocks.0.q_proj.weight` as released."""

    def __init__(self, config: LLaDAConfig):
        super().__init__()
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(config.embedding_size, config.d_model),
                "blocks": nn.ModuleList(LLaDABlock(config) for _ in range(config.n_layers)),
                "ln_f": RMSNorm(config.d_model, config.rms_norm_eps),
                "ff_out": nn.Linear(config.d_model, config.embedding_size, bias=False),
            }
        )


class LLaDAModelLM(PreTrainedModel):
    """LLaDA with its output head; position i predicts token i, every position sees every other."""

    config_class = LLaDAConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _no_split_modules = ["LLaDABlock"]
    _supports_sdpa = True

    def __init__(self, config: LLaDAConfig):
        super().__init__(config)
        self.model = LLaDATransformer(config)
        self.post_init()

    def _init_weights(self, module: nn.Module):
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=self.config.init_std)
        elif isinstance(module, RMSNorm):
            nn.init.ones_(module.weight)

    def get_input_embeddings(self) -> nn.Embedding:
        return self.model.transformer["wte"]

    def get_output_embeddings(self) -> nn.Linear:
        return self.model.transformer["ff_out"]

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits (..., V) of final hidden states (..., d)."""
        return self.model.transformer["ff_out"](hidden)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        logits_at: torch.Tensor | None = None,
        output_hidden_states: bool = False,
        positions: torch.Tensor | None = None,
        cache=None,
    ) -> LLaDAOutput:
        """Predict the token at every position.

        input_ids: (B, L). attention_mask: (B, L), 0 = padding on either side, which changes nothing elsewhere.
        cache: where each layer leaves its keys and values and finds those of all columns, see src/decoding/caches.py;
        input_ids then holds only the columns to recompute, positions (B, L) their places and attention_mask all columns.
        logits_at: apply the head there only; bool (B, L) gives logits (N, V) of the N true positions in order,
        integer (B, n) gives logits (B, n, V) of those positions of each row.
        """
        parts = self.model.transformer
        allowed = None if attention_mask is None else visible_keys(attention_mask)  # (B, 1, 1, L)
        head_dim = self.config.d_model // self.config.n_heads
        if positions is None:
            positions = positions_of(input_ids, attention_mask)
        cos, sin = rotary_angles(positions, head_dim, self.config.rope_theta)
        x = parts["wte"](input_ids)  # (B, L, d)
        states = [x]
        some = logits_at is not None and logits_at.dtype != torch.bool and not output_hidden_states
        some = some and (allowed is None or allowed.shape[2] == 1)  # a mask per query would have to be cut too
        for i, block in enumerate(parts["blocks"]):
            last = logits_at if some and i == self.config.n_layers - 1 else None
            x = block(x, cos, sin, allowed, None if cache is None else cache.layer(i), last)
            if output_hidden_states:
                states.append(x)
        x = parts["ln_f"](x)
        return LLaDAOutput(
            logits=self.head(x if some else rows(x, logits_at)),
            last_hidden_state=x,
            hidden_states=tuple(states) if output_hidden_states else None,
        )

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, output_loading_info: bool = False, **kwargs):
        """Load a checkpoint in the released layout, strictly: a missing, unexpected or misshapen weight is an error.

        Takes transformers' arguments (dtype, device_map, ...). Raises CheckpointError with one line of what is wrong.
        """
        check_folder(pretrained_model_name_or_path)
        kwargs["ignore_mismatched_sizes"] = True  # reported below, all in one way
        model, report = super().from_pretrained(
            pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs
        )
        check_loading(pretrained_model_name_or_path, report)
        return (model, report) if output_loading_info else model


def rows(hidden: torch.Tensor, at: torch.Tensor | None) -> torch.Tensor:
    """The rows of hidden (B, L, d) named by `logits_at` of LLaDAModelLM.forward."""
    if at is None:
        return hidden
    if at.dtype == torch.bool:
        return hidden[at]  # (N, d)
    hidden = hidden.expand(at.shape[0], -1, -1)  # angles without padding are one row for all
    return hidden.gather(1, at[..., None].expand(-1, -1, hidden.shape[-1]))  # (B, n, d)
