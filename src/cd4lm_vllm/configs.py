"""Our configurations under the names that vLLM and its Llama layers ask for."""

from cd4lm.model import DreamConfig, ILLaDAConfig, LLaDAConfig

# Head sizes that every attention backend has a kernel for; others are padded with zeros to the next.
KERNEL_HEADS = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256)


class Served:
    """What vLLM asks of a configuration besides the fields of its checkpoint.

    canvas_length makes vLLM call it a diffusion model. head_dim is as the kernels have it, own_head_dim the checkpoint's.
    """

    adapted = False

    def adapt(self) -> None:
        """Add what follows from the fields, which are read and checked by now."""
        self.adapted = True
        self.vocab_size = self.embedding_size
        self.rope_parameters = {"rope_type": "default", "rope_theta": self.rope_theta}

    @property
    def own_head_dim(self) -> int:
        return self.d_model // self.n_heads

    @property
    def head_dim(self) -> int:
        own = self.own_head_dim
        return next((size for size in KERNEL_HEADS if size >= own), own) if self.adapted else own

    @property
    def is_padded(self) -> bool:
        return self.head_dim != self.own_head_dim

    canvas_length = property(lambda self: self.block_length)


# transformers gives every configuration class without an __init__ of its own one that reads annotations.
class ServedLLaDAConfig(Served, LLaDAConfig):
    def __init__(self, **fields):
        LLaDAConfig.__init__(self, **fields)
        self.adapt()

    hidden_act = "silu"
    num_key_value_heads = property(lambda self: self.n_kv_heads)
    intermediate_size = property(lambda self: self.mlp_hidden_size)
    max_position_embeddings = property(lambda self: self.max_sequence_length)


class ServedDreamConfig(Served, DreamConfig):
    def __init__(self, **fields):
        DreamConfig.__init__(self, **fields)
        self.adapt()


class ServedILLaDAConfig(Served, ILLaDAConfig):
    def __init__(self, **fields):
        ILLaDAConfig.__init__(self, **fields)
        self.adapt()


# By the architecture that config.json names.
SERVED = {
    "LLaDAModelLM": ServedLLaDAConfig,
    "DreamModel": ServedDreamConfig,
    "ILLaDAForCausalLM": ServedILLaDAConfig,
}
