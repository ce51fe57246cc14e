"""Dream and iLLaDA: the decoders of Qwen2 and Llama made bidirectional, module names as in the released checkpoints.

Dream has biases on queries, keys and values and a head of its own, and its output at position i - 1 predicts token i,
as in the autoregressive model it started from; DiffusionLM.forward is the one place that undoes that. iLLaDA has no
biases, and its head is the embedding's matrix. The configuration says which (qkv_bias, output_shift,
tie_word_embeddings).
"""

from torch import nn

from cd4lm.model.configuration import DecoderFields
from cd4lm.model.llada import Block, DiffusionLM, Embedding, Linear, OutputHead, RMSNorm


class DecoderBlock(Block):
    """The parts under transformers' names."""

    def __init__(self, config: DecoderFields):
        super().__init__(config)
        d, hidden, kv = config.d_model, config.mlp_hidden_size, config.n_kv_heads * config.head_dim
        self.input_layernorm = RMSNorm(d, config.rms_norm_eps)
        self.self_attn = nn.ModuleDict(
            {
                "q_proj": Linear(d, d, bias=config.qkv_bias),
                "k_proj": Linear(d, kv, bias=config.qkv_bias),
                "v_proj": Linear(d, kv, bias=config.qkv_bias),
                "o_proj": Linear(d, d, bias=False),
            }
        )
        self.post_attention_layernorm = RMSNorm(d, config.rms_norm_eps)
        self.mlp = nn.ModuleDict(
            {
                "gate_proj": Linear(d, hidden, bias=False),
                "up_proj": Linear(d, hidden, bias=False),
                "down_proj": Linear(hidden, d, bias=False),
            }
        )

    attn_norm = property(lambda self: self.input_layernorm)
    q_proj = property(lambda self: self.self_attn["q_proj"])
    k_proj = property(lambda self: self.self_attn["k_proj"])
    v_proj = property(lambda self: self.self_attn["v_proj"])
    attn_out = property(lambda self: self.self_attn["o_proj"])
    ff_norm = property(lambda self: self.post_attention_layernorm)
    ff_proj = property(lambda self: self.mlp["gate_proj"])
    up_proj = property(lambda self: self.mlp["up_proj"])
    ff_out = property(lambda self: self.mlp["down_proj"])


class DecoderTransformer(nn.Module):
    """Holds what is under `model.`, so that keys read `model.layers.0.self_attn.q_proj.weight` as released."""

    def __init__(self, config: DecoderFields):
        super().__init__()
        self.embed_tokens = Embedding(config.vocab_size, config.d_model)
        self.layers = nn.ModuleList(DecoderBlock(config) for _ in range(config.n_layers))
        self.norm = RMSNorm(config.d_model, config.rms_norm_eps)


class Decoder(DiffusionLM):
    """A decoder with its output head."""

    def build(self, config: DecoderFields) -> None:
        self.model = DecoderTransformer(config)
        self.lm_head = OutputHead(config.d_model, config.vocab_size, bias=False)
        self.tie()

    @property
    def embedding(self) -> nn.Embedding:
        return self.model.embed_tokens

    @property
    def blocks(self) -> nn.ModuleList:
        return self.model.layers

    @property
    def final_norm(self) -> RMSNorm:
        return self.model.norm

    def get_output_embeddings(self) -> nn.Linear:
        return self.lm_head


class Dream(Decoder):
    """Dream: the output before a token predicts it."""


class ILLaDA(Decoder):
    """iLLaDA: the head is the embedding."""

    copies = {"lm_head.weight": "model.embed_tokens.weight"}
