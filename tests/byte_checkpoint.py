"""A checkpoint that reads any text: random weights and a tokenizer of bytes, for real runs without training.

python tests/byte_checkpoint.py FOLDER
"""

import json
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from cd4lm.data.tiny_tokenizer import CHAT_TEMPLATE, END, EOT, HEADER_END, HEADER_START, MASK, START
from cd4lm.decoding.options import DecodingOptions
from cd4lm.model import ILLaDAConfig, ILLaDAForCausalLM, LLaDAConfig, LLaDAModelLM


def byte_tokenizer(mask: str = MASK, *, declared: bool = True) -> PreTrainedTokenizerFast:
    """One token per byte of UTF-8, and LLaDA's special tokens and chat template.

    mask: the mask token, which the tokenizer declares as such or has as one token among others.
    """
    special = [END, START, EOT, mask, HEADER_START, HEADER_END]
    vocabulary = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(vocabulary)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    ends = {"bos_token": START, "eos_token": END, "pad_token": END} | ({"mask_token": mask} if declared else {})
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=CHAT_TEMPLATE, **ends)


def build(folder: Path) -> Path:
    """Save a LLaDA; predictions differ from place to place, and now and then a row ends early."""
    torch.manual_seed(1)
    tokenizer = byte_tokenizer()
    config = LLaDAConfig(
        d_model=32,
        n_heads=4,
        n_layers=2,
        mlp_hidden_size=48,
        vocab_size=len(tokenizer),
        init_std=0.3,
        max_sequence_length=4096,
        mask_token_id=tokenizer.mask_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
    )
    LLaDAModelLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    DecodingOptions(gen_length=32, block_length=16, confidence_threshold=0.5).save(folder)
    return folder


def build_illada(folder: Path) -> Path:
    """As build in iLLaDA's layout: tied head, and the mask token's id known from its name alone."""
    torch.manual_seed(1)
    tokenizer = byte_tokenizer("<[MASK]>", declared=False)
    config = ILLaDAConfig(
        hidden_size=32,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_hidden_layers=2,
        intermediate_size=48,
        vocab_size=len(tokenizer),
        initializer_range=0.3,
        max_position_embeddings=4096,
        eos_token_id=tokenizer.eos_token_id,
    )
    ILLaDAForCausalLM(config).save_pretrained(folder)
    fields = json.loads((folder / "config.json").read_text())
    del fields["mask_token_id"]
    (folder / "config.json").write_text(json.dumps(fields))
    tokenizer.save_pretrained(folder)
    DecodingOptions(gen_length=32, block_length=16, confidence_threshold=0.5).save(folder)
    return folder


if __name__ == "__main__":
    build(Path(sys.argv[1]))
