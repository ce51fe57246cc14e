"""What every configuration here has, and that of LLaDA checkpoints, field for field as released."""

import json

from transformers import PretrainedConfig

# How attention sees blocks: not at all, or no block sees a later one. Blocks start where the answer starts, the prompt
# before them being one block of any length, or every block_length tokens from position 0, as serving engines count.
ATTENTIONS = ("bidirectional", "block_causal")
BLOCK_GRIDS = ("answer", "absolute")

# Fields of the released format that have one value in every LLaDA checkpoint. They are kept so that a saved
# config is complete for other programs; any other value would silently compute something else, so it is refused.
FIXED_OPTIONS = {
    "activation_type": "silu",
    "alibi": False,
    "attention_dropout": 0.0,
    "attention_layer_norm": False,
    "block_group_size": 1,
    "block_type": "llama",
    "embedding_dropout": 0.0,
    "include_bias": False,
    "include_qkv_bias": False,
    "input_emb_norm": False,
    "layer_norm_type": "rms",
    "layer_norm_with_affine": True,
    "multi_query_attention": None,
    "residual_dropout": 0.0,
    "rope": True,
    "rope_full_precision": True,
    "scale_logits": False,
    "weight_tying": False,
}
# Fields that published programs read and that change nothing in ours.
CARRIED_FIELDS = {
    "alibi_bias_max": 8.0,
    "attention_layer_norm_with_affine": True,
    "bias_for_layer_norm": None,
    "flash_attention": False,
    "init_cutoff_factor": None,
    "init_device": "cpu",
    "init_fn": "mitchell",
    "mlp_ratio": 4,
    "precision": None,
    "use_cache": False,
}


class DiffusionConfig(PretrainedConfig):
    """A configuration with attention over blocks, stored in the checkpoint only where it is not bidirectional.

    Subclasses give the shape by these names: d_model, n_heads, n_kv_heads, n_layers, mlp_hidden_size, vocab_size,
    embedding_size, max_sequence_length, rope_theta, rms_norm_eps, init_std, mask_token_id.
    attention: bidirectional or block_causal. block_length: tokens per block. block_grid: answer or absolute.
    output_shift: how many positions before a token the output stands that predicts it.
    """

    output_shift = 0

    def set_attention(self, attention: str, block_length: int | None = None, block_grid: str | None = None) -> None:
        """Choose what a position sees; block_grid None is "answer". Raises ValueError for values that do not fit."""
        if attention not in ATTENTIONS:
            raise ValueError(f"attention={attention!r} is unknown: use one of {', '.join(ATTENTIONS)}")
        if attention == "bidirectional" and (block_length, block_grid) != (None, None):
            raise ValueError("block_length and block_grid mean nothing with attention='bidirectional': leave them out")
        if attention == "block_causal":
            block_grid = block_grid or "answer"
            if block_length is None or block_length < 1:
                raise ValueError(f"block_length={block_length} must be at least 1 with attention='block_causal'")
            if block_grid not in BLOCK_GRIDS:
                raise ValueError(f"block_grid={block_grid!r} is unknown: use one of {', '.join(BLOCK_GRIDS)}")
        self.attention, self.block_length, self.block_grid = attention, block_length, block_grid

    @property
    def head_dim(self) -> int:
        return self.d_model // self.n_heads

    def check_shape(self) -> None:
        """Raise ValueError for sizes that do not fit each other."""
        if self.d_model % self.n_heads or self.head_dim % 2:
            raise ValueError(f"d_model={self.d_model} must split into n_heads={self.n_heads} heads of even size")
        if self.n_heads % self.n_kv_heads:
            raise ValueError(f"n_heads={self.n_heads} must be a multiple of n_kv_heads={self.n_kv_heads}")
        if self.embedding_size < self.vocab_size:
            raise ValueError(f"embedding_size={self.embedding_size} is smaller than vocab_size={self.vocab_size}")

    def to_dict(self) -> dict:
        """The fields of config.json; a bidirectional checkpoint has those of the released format and no other."""
        fields = super().to_dict()
        if self.attention == "bidirectional":
            for name in ("attention", "block_length", "block_grid"):
                fields.pop(name, None)
        return fields

    def to_json_string(self, use_diff: bool = True) -> str:
        """The config file's text; the dtype is also written under the name that transformers before 4.56 reads."""
        fields = json.loads(super().to_json_string(use_diff))
        if "dtype" in fields:
            fields["torch_dtype"] = fields["dtype"]
        return json.dumps(fields, indent=2, sort_keys=True) + "\n"


class LLaDAConfig(DiffusionConfig):
    """Shape and token ids of a LLaDA model; defaults are LLaDA-8B-Instruct, and LLaDA-1.5 is of the same layout.

    Raises ValueError for an option of the format that no LLaDA checkpoint uses (ALiBi, other block types, biases,
    dropout, tied weights), naming the option.
    """

    model_type = "llada"

    def __init__(
        self,
        *,
        d_model: int = 4096,
        n_heads: int = 32,
        n_kv_heads: int | None = None,
        n_layers: int = 32,
        mlp_hidden_size: int | None = None,
        vocab_size: int = 126464,
        embedding_size: int | None = None,
        max_sequence_length: int = 4096,
        rope_theta: float = 500000.0,
        rms_norm_eps: float = 1e-5,
        init_std: float = 0.02,
        mask_token_id: int = 126336,
        eos_token_id: int = 126081,
        pad_token_id: int = 126081,
        attention: str = "bidirectional",
        block_length: int | None = None,
        block_grid: str | None = None,
        **released,
    ):
        for name, value in FIXED_OPTIONS.items():
            given = released.pop(name, value)
            # The released files write a missing option as null as well as by its value.
            if given is not None and given != value:
                raise ValueError(f"config option {name}={given!r} is not supported: LLaDA checkpoints have {value!r}")
            setattr(self, name, value)
        for name, value in CARRIED_FIELDS.items():
            setattr(self, name, released.pop(name, value))
        self.d_model = d_model
        self.n_heads = n_heads
        self.n_kv_heads = n_heads if n_kv_heads is None else n_kv_heads
        self.n_layers = n_layers
        self.mlp_hidden_size = self.mlp_ratio * d_model if mlp_hidden_size is None else mlp_hidden_size
        self.vocab_size = vocab_size
        self.embedding_size = vocab_size if embedding_size is None else embedding_size
        self.max_sequence_length = max_sequence_length
        self.rope_theta = rope_theta
        self.rms_norm_eps = rms_norm_eps
        self.init_std = init_std
        self.mask_token_id = mask_token_id
        self.check_shape()
        self.set_attention(attention, block_length, block_grid)
        released.pop("tie_word_embeddings", None)
        super().__init__(
            eos_token_id=eos_token_id, pad_token_id=pad_token_id, tie_word_embeddings=self.weight_tying, **released
        )

    # The names transformers itself asks for.
    @property
    def hidden_size(self) -> int:
        return self.d_model

    @property
    def num_hidden_layers(self) -> int:
        return self.n_layers

    @property
    def num_attention_heads(self) -> int:
        return self.n_heads
