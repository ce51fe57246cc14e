"""The three backbones on vLLM's Llama layers: names, padded heads, and the outputs that Dream's shift needs."""

from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from vllm.config import VllmConfig
from vllm.distributed import get_pp_group
from vllm.model_executor.models.llama import LlamaForCausalLM
from vllm.model_executor.models.utils import AutoWeightsLoader

from cd4lm.model.llada import rotary_angles

# LLaDA's names as transformers' Llama has them, which the other two have already. The head's ends in ff_out as well.
HEAD = "model.transformer.ff_out.weight"
PARTS = {
    "model.transformer.wte.": "model.embed_tokens.",
    "model.transformer.blocks.": "model.layers.",
    "model.transformer.ln_f.": "model.norm.",
    ".q_proj.": ".self_attn.q_proj.",
    ".k_proj.": ".self_attn.k_proj.",
    ".v_proj.": ".self_attn.v_proj.",
    ".attn_out.": ".self_attn.o_proj.",
    ".attn_norm.": ".input_layernorm.",
    ".ff_norm.": ".post_attention_layernorm.",
    ".ff_proj.": ".mlp.gate_proj.",
    ".up_proj.": ".mlp.up_proj.",
    ".ff_out.": ".mlp.down_proj.",
}


def llama_name(name: str) -> str:
    """The name of one of LLaDA's weights in a Llama; others stay as they are."""
    if name == HEAD:
        return "lm_head.weight"
    if name.startswith("model.transformer."):
        for theirs, llamas in PARTS.items():
            name = name.replace(theirs, llamas)
    return name


def pad_heads(name: str, weight: torch.Tensor, own: int, padded: int) -> torch.Tensor:
    """A projection with zeros after each half of every head of `own` dimensions, `padded` in all; others unchanged.

    RoPE turns a dimension of the first half with one of the second, so the halves stay halves.
    """
    more = (padded - own) // 2
    if name.endswith((".q_proj.weight", ".k_proj.weight", ".v_proj.weight")):
        return F.pad(weight.view(-1, own // 2, weight.shape[1]), (0, 0, 0, more)).flatten(0, 1)
    if name.endswith((".q_proj.bias", ".k_proj.bias", ".v_proj.bias")):
        return F.pad(weight.view(-1, own // 2), (0, more)).flatten()
    if name.endswith(".o_proj.weight"):
        return F.pad(weight.view(len(weight), -1, own // 2), (0, more)).flatten(1)
    return weight


def pad_angles(cache: torch.Tensor, own: int, theta: float) -> None:
    """Write into RoPE's table (positions, head size), cosines then sines, the angles of heads of `own` dimensions."""
    positions = torch.arange(len(cache), device=cache.device)[None]
    half = cache.shape[1] // 2
    for part, values in enumerate(rotary_angles(positions, own, theta)):
        cache[:, part * half : part * half + own // 2] = values[0, 0].to(cache.dtype)


class BlockCausalLM(LlamaForCausalLM):
    """A Llama (Dream: with biases) whose attention is what the state says (state.py)."""

    @staticmethod
    def get_model_state_cls():
        from cd4lm_vllm.state import BlockState

        return BlockState

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = ""):
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        for layer in self.model.layers[self.model.start_layer : self.model.end_layer]:
            layer.self_attn.attn.impl.scale = self.config.own_head_dim**-0.5  # zeros in a head are no dimensions
            if self.config.is_padded:
                pad_angles(layer.self_attn.rotary_emb.cos_sin_cache, self.config.own_head_dim, self.config.rope_theta)
        # The outputs of the last forward where they can be found again, graph or no graph: the one before a block
        # predicts its first token, and comes with an earlier forward.
        outputs = None
        if self.config.output_shift and get_pp_group().is_last_rank:
            tokens, dtype = vllm_config.scheduler_config.max_num_batched_tokens, vllm_config.model_config.dtype
            outputs = torch.zeros(tokens, self.config.hidden_size, dtype=dtype)
        self.register_buffer("outputs", outputs, persistent=False)

    def forward(self, input_ids, positions, intermediate_tensors=None, inputs_embeds=None):
        hidden = super().forward(input_ids, positions, intermediate_tensors, inputs_embeds)
        if self.outputs is not None:
            self.outputs[: len(hidden)].copy_(hidden)
        return hidden

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        return AutoWeightsLoader(self).load_weights(self.renamed(weights))

    def renamed(self, weights: Iterable[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
        for name, weight in weights:
            name = llama_name(name)
            if self.config.is_padded:
                weight = pad_heads(name, weight, self.config.own_head_dim, self.config.head_dim)
            yield name, weight
