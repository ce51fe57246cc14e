"""The configuration of Dream checkpoints, field for field as released."""

from cd4lm.model.configuration import DiffusionConfig

# Options of the format that have one value in every Dream checkpoint; another would silently compute something else.
FIXED_OPTIONS = {
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "rope_parameters": None,
    "rope_scaling": None,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
}
# Of these, names that transformers fills in by itself.
ROPE_OPTIONS = ("rope_parameters", "rope_scaling")
# Fields that published programs read and that change nothing here.
CARRIED_FIELDS = {"max_window_layers": 28, "use_cache": False}


class DreamFields(DiffusionConfig):
    """The configuration of a Dream model; defaults are Dream-v0-Instruct-7B."""

    model_type = "Dream"
    needed = ("hidden_size", "num_attention_heads", "num_hidden_layers", "vocab_size", "mask_token_id")
    output_shift = 1

    def fill(
        self,
        *,
        hidden_size: int = 3584,
        num_attention_heads: int = 28,
        num_key_value_heads: int = 4,
        num_hidden_layers: int = 28,
        intermediate_size: int = 18944,
        vocab_size: int = 152064,
        max_position_embeddings: int = 131072,
        rope_theta: float = 1000000.0,
        rms_norm_eps: float = 1e-6,
        initializer_range: float = 0.02,
        mask_token_id: int = 151666,
        bos_token_id: int | None = 151643,
        eos_token_id: int = 151643,
        pad_token_id: int = 151643,
        attention: str = "bidirectional",
        block_length: int | None = None,
        block_grid: str | None = None,
        **released,
    ) -> dict:
        self.take_options(FIXED_OPTIONS, CARRIED_FIELDS, released, unset=ROPE_OPTIONS)
        self.hidden_size = hidden_size
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_key_value_heads
        self.num_hidden_layers = num_hidden_layers
        self.intermediate_size = intermediate_size
        self.vocab_size = vocab_size
        self.max_position_embeddings = max_position_embeddings
        self.rope_theta = rope_theta
        self.rms_norm_eps = rms_norm_eps
        self.initializer_range = initializer_range
        self.mask_token_id = mask_token_id
        self.bos_token_id = bos_token_id
        self.eos_token_id = eos_token_id
        self.pad_token_id = pad_token_id
        self.check_shape()
        self.set_attention(attention, block_length, block_grid)
        return released

    # The names that the engine and the trainers ask every configuration for.
    d_model = property(lambda self: self.hidden_size)
    n_heads = property(lambda self: self.num_attention_heads)
    n_kv_heads = property(lambda self: self.num_key_value_heads)
    n_layers = property(lambda self: self.num_hidden_layers)
    mlp_hidden_size = property(lambda self: self.intermediate_size)
    embedding_size = property(lambda self: self.vocab_size)
    max_sequence_length = property(lambda self: self.max_position_embeddings)
    init_std = property(lambda self: self.initializer_range)
