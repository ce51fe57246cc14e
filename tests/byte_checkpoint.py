"""A checkpoint that reads any text: LLaDA with random weights and a tokenizer of bytes, for real runs without training.

python tests/byte_checkpoint.py FOLDER
"""

import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from cd4lm.data.tiny_tokenizer import CHAT_TEMPLATE, END, EOT, HEADER_END, HEADER_START, MASK, START
from cd4lm.decoding.options import DecodingOptions
from cd4lm.model import LLaDAConfig, LLaDAModelLM

SPECIAL = [END, START, EOT, MASK, HEADER_START, HEADER_END]


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte of UTF-8, and LLaDA's special tokens and chat template."""
    vocabulary = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(vocabulary)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    ends = {"bos_token": START, "eos_token": END, "pad_token": END, "mask_token": MASK}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=CHAT_TEMPLATE, **ends)


def build(folder: Path) -> Path:
    """Save the checkpoint; predictions differ from place to place, and now and then a row ends early."""
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


if __name__ == "__main__":
    build(Path(sys.argv[1]))
