"""The configuration of Dream checkpoints, field for field as released."""

from cd4lm.model.configuration import DecoderFields


class DreamFields(DecoderFields):
    """The configuration of a Dream model; defaults are Dream-v0-Instruct-7B."""

    model_type = "Dream"
    needed = ("hidden_size", "num_attention_heads", "num_hidden_layers", "vocab_size", "mask_token_id")
    output_shift = 1
    qkv_bias = True
    defaults = {
        "hidden_size": 3584,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "num_hidden_layers": 28,
        "intermediate_size": 18944,
        "vocab_size": 152064,
        "max_position_embeddings": 131072,
        "rope_theta": 1000000.0,
        "rms_norm_eps": 1e-6,
        "initializer_range": 0.02,
        "mask_token_id": 151666,
        "bos_token_id": 151643,
        "eos_token_id": 151643,
        "pad_token_id": 151643,
    }
    # Options of the format with one value in every Dream checkpoint; another would silently compute something else.
    fixed = {
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "rope_parameters": None,
        "rope_scaling": None,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "use_sliding_window": False,
    }
    # Of these, names that transformers fills in by itself.
    unset = ("rope_parameters", "rope_scaling")
    # Fields that published programs read and that change nothing here.
    carried = {"max_window_layers": 28, "use_cache": False}
