"""The configuration of iLLaDA checkpoints, field for field as released, and what it leaves to their tokenizer."""

from pathlib import Path

from cd4lm.model.configuration import DecoderFields
from cd4lm.model.tokenizer_files import id_of_token, named_token

MASK = "<[MASK]>"  # the tokenizer has it as one token among others, and config.json does not give its id


class ILLaDAFields(DecoderFields):
    """The configuration of an iLLaDA model; defaults are the shape of iLLaDA-8B, and rope_theta that of Llama."""

    model_type = "illada"
    needed = (
        "hidden_size",
        "num_attention_heads",
        "num_key_value_heads",
        "num_hidden_layers",
        "intermediate_size",
        "vocab_size",
        "max_position_embeddings",
        "rope_theta",
        "rms_norm_eps",
        "mask_token_id",
    )
    rope_full_precision = False
    qkv_bias = False
    defaults = {
        "hidden_size": 4096,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "num_hidden_layers": 32,
        "intermediate_size": 14336,
        "vocab_size": 155136,
        "max_position_embeddings": 8192,
        "rope_theta": 10000.0,
        "rms_norm_eps": 1e-5,
        "initializer_range": 0.02,
        "mask_token_id": None,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    # Options of the format with one value in every iLLaDA checkpoint; another would silently compute something else.
    fixed = {
        "attention_bias": False,
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "layer_norm_eps": None,
        "mlp_bias": False,
        "partial_rotary_factor": 1.0,
        "pretraining_tp": 1,
        "rope_parameters": None,
        "rope_scaling": None,
        "sliding_window": None,
        "tie_word_embeddings": True,
        "use_sliding_window": False,
    }
    # Of these, names that transformers fills in by itself or that the released files do not have.
    unset = ("partial_rotary_factor", "rope_parameters", "rope_scaling", "sliding_window", "use_sliding_window")
    carried = {"use_cache": False}

    def fill(self, *, head_dim: int | None = None, **fields) -> dict:
        others = super().fill(**fields)
        if head_dim not in (None, self.head_dim):
            raise ValueError(f"config option head_dim={head_dim!r} is not supported: this shape has {self.head_dim}")
        return others

    @classmethod
    def complete(cls, fields: dict, folder: Path) -> dict:
        """The fields with mask_token_id, and eos_token_id if there is none, from the tokenizer files beside them.

        Raises ValueError where no file names the mask token, or config.json gives it another id.
        """
        given, named = fields.get("mask_token_id"), id_of_token(folder, MASK)
        if given is None and named is None:
            raise ValueError(
                f"it has no mask_token_id and no tokenizer file beside it names {MASK}: copy the tokenizer files of "
                "this model beside the weights"
            )
        if None not in (given, named) and given != named:
            raise ValueError(f"mask_token_id={given!r}, but the tokenizer files have {MASK} as {named}: correct one")
        fields = fields | {"mask_token_id": named if given is None else given}
        if fields.get("eos_token_id") is None and (eos := named_token(folder, "eos_token")) is not None:
            fields["eos_token_id"] = id_of_token(folder, eos)
        return fields
