"""What every configuration here has, and that of LLaDA checkpoints, field for field as released.

These classes need no transformers and serve decoding; LLaDAConfig, DreamConfig and ILLaDAConfig (pretrained.py) add
what transformers asks of a configuration.
"""

from pathlib import Path

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
# The shape of a model, in whole numbers.
SIZES = ("d_model", "n_heads", "n_kv_heads", "n_layers", "mlp_hidden_size", "vocab_size", "embedding_size")
SIZES = (*SIZES, "max_sequence_length")


class DiffusionConfig:
    """Shape, token ids and attention of a model, from the fields of its config.json.

    Subclasses fill in the fields of their released format and give the shape by these names: d_model, n_heads,
    n_kv_heads, n_layers, mlp_hidden_size, vocab_size, embedding_size, max_sequence_length, rope_theta, rms_norm_eps,
    init_std, mask_token_id, eos_token_id, pad_token_id.
    attention: bidirectional or block_causal. block_length: tokens per block. block_grid: answer or absolute.
    output_shift: how many positions before a token the output stands that predicts it. rope_full_precision: positions
    are rotated in float32, or in the activations' dtype. tie_word_embeddings: the head reads the embedding's matrix.
    Raises ValueError for an option that no checkpoint of the format uses, naming it, and for sizes that do not fit.
    """

    model_type: str
    needed: tuple[str, ...]  # fields without which a config.json is of another layout
    output_shift = 0
    rope_full_precision = True
    tie_word_embeddings = False

    def __init__(self, **fields):
        self.other_fields = self.fill(**fields)

    def fill(self, **fields) -> dict:
        """Set the attributes from the fields of a config.json; returns the fields that nothing here reads."""
        raise NotImplementedError

    def as_fields(self) -> dict:
        """The fields from which an equal configuration is made."""
        return self.other_fields | {name: value for name, value in vars(self).items() if name != "other_fields"}

    def take_options(self, fixed: dict, carried: dict, released: dict, unset: tuple[str, ...] = ()) -> None:
        """Move the options of the format from `released` to attributes, but for the names in `unset`.

        Raises ValueError for an option that has another value than the one in `fixed`.
        """
        for name, value in fixed.items():
            given = released.pop(name, value)
            # The released files write a missing option as null as well as by its value.
            if given is not None and given != value:
                raise ValueError(
                    f"config option {name}={given!r} is not supported: {self.model_type} checkpoints have {value!r}"
                )
            if name not in unset:
                setattr(self, name, value)
        for name, value in carried.items():
            setattr(self, name, released.pop(name, value))

    def set_attention(self, attention: str, block_length: int | None = None, block_grid: str | None = None) -> None:
        """Choose what a position sees; block_grid None is "answer". Raises ValueError for values that do not fit."""
        if attention not in ATTENTIONS:
            raise ValueError(f"attention={attention!r} is unknown: use one of {', '.join(ATTENTIONS)}")
        if attention == "bidirectional" and (block_length, block_grid) != (None, None):
            raise ValueError("block_length and block_grid mean nothing with attention='bidirectional': leave them out")
        if attention == "block_causal":
            block_grid = block_grid or "answer"
            if type(block_length) is not int or block_length < 1:
                raise ValueError(f"block_length={block_length} must be at least 1 with attention='block_causal'")
            if block_grid not in BLOCK_GRIDS:
                raise ValueError(f"block_grid={block_grid!r} is unknown: use one of {', '.join(BLOCK_GRIDS)}")
        self.attention, self.block_length, self.block_grid = attention, block_length, block_grid

    @classmethod
    def from_file(cls, fields: dict, folder: Path) -> "DiffusionConfig":
        """A configuration from the fields of the config.json in a folder. Raises ValueError for one of another layout."""
        fields = cls.complete(fields, folder)
        cls.check_layout(fields)
        config = cls(**fields)
        config.check_tokens(fields)
        return config

    @classmethod
    def complete(cls, fields: dict, folder: Path) -> dict:
        """The fields of a config.json, and those that the format leaves to the tokenizer files in the same folder."""
        return fields

    @classmethod
    def check_layout(cls, fields: dict) -> None:
        """Raise ValueError for a config.json of another layout."""
        experts = [name for name in fields if "expert" in name and fields[name]]
        if experts:
            raise ValueError(
                f"{experts[0]}={fields[experts[0]]!r}: a mixture of experts, which is not supported: take a dense model"
            )
        if fields.get("quantization_config") is not None:
            raise ValueError("quantization_config: quantized weights are not supported: take the bfloat16 checkpoint")
        lacking = ", ".join(name for name in cls.needed if fields.get(name) is None)
        if lacking:
            raise ValueError(
                f"it has no {lacking}, which every {cls.model_type} checkpoint has: add it, or take a checkpoint of that layout"
            )

    def check_tokens(self, fields: dict) -> None:
        """Raise ValueError for token ids of a config.json that the vocabulary does not have."""
        for name in ("mask_token_id", "eos_token_id", "pad_token_id"):
            token = fields.get(name)
            if token is not None and (type(token) is not int or not 0 <= token < self.embedding_size):
                raise ValueError(f"{name}={token!r} is none of the {self.embedding_size} token ids: correct it")
        if fields["mask_token_id"] == fields.get("eos_token_id"):
            raise ValueError(f"mask_token_id and eos_token_id are both {fields['mask_token_id']}: they must differ")

    @property
    def head_dim(self) -> int:
        return self.d_model // self.n_heads

    def check_shape(self) -> None:
        """Raise ValueError for sizes that are no whole numbers or do not fit each other."""
        for name in SIZES:
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"{name}={value!r} must be a whole number of at least 1")
        for name in ("rope_theta", "rms_norm_eps", "init_std"):
            value = getattr(self, name)
            if type(value) not in (int, float) or not 0 < value < float("inf"):
                raise ValueError(f"{name}={value!r} must be a number above 0")
        if self.d_model % self.n_heads or self.head_dim % 2:
            raise ValueError(f"d_model={self.d_model} must split into n_heads={self.n_heads} heads of even size")
        if self.n_heads % self.n_kv_heads:
            raise ValueError(f"n_heads={self.n_heads} must be a multiple of n_kv_heads={self.n_kv_heads}")
        if self.embedding_size < self.vocab_size:
            raise ValueError(f"embedding_size={self.embedding_size} is smaller than vocab_size={self.vocab_size}")


class LLaDAFields(DiffusionConfig):
    """The configuration of a LLaDA model; defaults are LLaDA-8B-Instruct, and LLaDA-1.5 is of the same layout."""

    model_type = "llada"
    needed = ("d_model", "n_heads", "n_layers", "vocab_size", "mask_token_id")

    def fill(
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
    ) -> dict:
        self.take_options(FIXED_OPTIONS, CARRIED_FIELDS, released)
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
        self.eos_token_id = eos_token_id
        self.pad_token_id = pad_token_id
        self.check_shape()
        self.set_attention(attention, block_length, block_grid)
        released.pop("tie_word_embeddings", None)  # says the same as weight_tying
        return released


class DecoderFields(DiffusionConfig):
    """A configuration under the names that transformers gives the decoders of Llama and Qwen2.

    defaults: the fields of the format with the values of its largest release; fixed, carried, unset: see take_options.
    """

    defaults: dict
    fixed: dict
    carried: dict
    unset: tuple[str, ...]
    qkv_bias: bool  # whether queries, keys and values have one

    def fill(
        self,
        *,
        attention: str = "bidirectional",
        block_length: int | None = None,
        block_grid: str | None = None,
        **released,
    ) -> dict:
        self.take_options(self.fixed, self.defaults | self.carried, released, self.unset)
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
