"""The word-level tokenizer of the embedded task, and the special tokens and chat template, LLaDA's, of all of its kind."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from cd4lm.data.tiny_task import vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

END, START, EOT, MASK = "<|endoftext|>", "<|startoftext|>", "<|eot_id|>", "<|mdm_mask|>"
HEADER_START, HEADER_END, UNKNOWN, PARAGRAPH = "<|start_header_id|>", "<|end_header_id|>", "<unk>", "\n\n"
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n{{ message['content'] | trim }}<|eot_id|>"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer that splits on spaces; a word it does not know becomes <unk>."""
    return chat_tokenizer(vocabulary(), pre_tokenizers.WhitespaceSplit())


def chat_tokenizer(words: Iterable[str], pre_tokenizer, decoder=None) -> PreTrainedTokenizerFast:
    """A tokenizer of whole words with LLaDA's special tokens and chat template; without a decoder blanks join words."""
    from transformers import PreTrainedTokenizerFast  # seconds to import, which the names above need not wait for

    special = [END, START, EOT, MASK, HEADER_START, HEADER_END, UNKNOWN]
    known = dict.fromkeys([*special, PARAGRAPH, "user", "assistant", "system", *words])
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(known)}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizer
    if decoder is not None:
        tokenizer.decoder = decoder
    tokenizer.add_special_tokens(special)
    # An added token is found before the split on white space, which would swallow it.
    tokenizer.add_tokens([AddedToken(PARAGRAPH, normalized=False)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=START,
        eos_token=END,
        pad_token=END,
        mask_token=MASK,
        unk_token=UNKNOWN,
        chat_template=CHAT_TEMPLATE,
    )
