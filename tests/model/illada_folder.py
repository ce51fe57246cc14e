"""Released iLLaDA checkpoints: transformers' Llama under the names that iLLaDA's config.json and tokenizer have."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

V, MASK = 90, 5
SHAPE = {
    "hidden_size": 48,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "num_hidden_layers": 3,
    "intermediate_size": 64,
    "vocab_size": V,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "initializer_range": 0.2,
}
# The other fields of a released config.json, without a mask token; the code that auto_map names is not there.
RELEASED = {
    "architectures": ["ILLaDAForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "auto_map": {"AutoConfig": "configuration_illada.ILLaDAConfig", "AutoModel": "modeling_illada.ILLaDAModel"},
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "layer_norm_eps": None,
    "mlp_bias": False,
    "model_type": "illada",
    "rope_scaling": None,
    "tie_word_embeddings": True,
    "torch_dtype": "float32",
    "transformers_version": "4.46.2",
    "use_cache": False,
}
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def write_tokenizer(folder: Path, mask: str | None = "<[MASK]>", eos: str = "</s>") -> None:
    """Tokenizer files of V words, which declare no mask token."""
    words = {f"w{i}": i for i in range(V)}
    for number, word in ((0, "<unk>"), (1, "<s>"), (2, eos), (MASK, mask)):
        if word is not None:
            del words[f"w{number}"]
            words[word] = number
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.add_special_tokens([word for word in ("<s>", eos, mask) if word is not None])
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=eos, pad_token=eos).save_pretrained(folder)


def random_llama(attention: str = "sdpa") -> LlamaForCausalLM:
    """Llama with a tied head, grouped heads and norms that matter."""
    torch.manual_seed(2)
    config = LlamaConfig(**SHAPE, tie_word_embeddings=True, attn_implementation=attention)
    model = LlamaForCausalLM(config).eval()
    for name, parameter in model.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    return model


def write_checkpoint(folder: Path, llama: LlamaForCausalLM) -> None:
    """Llama's weights as a released iLLaDA checkpoint; transformers leaves the tied head out of it."""
    weights = {key: value.contiguous() for key, value in llama.state_dict().items() if key != HEAD}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(SHAPE | RELEASED))
    write_tokenizer(folder)
