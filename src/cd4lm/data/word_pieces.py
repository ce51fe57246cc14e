"""A tokenizer of whole words, digits or numbers, and the signs between them, whose decoded text has the original spacing.

A blank between two words, or a word and a number, is no token; other signs keep the blanks around them, for instance
`clips, in May.` is `clips` `, ` `in` `May` `.`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

BLANK = r"(?<=[A-Za-z0-9]) (?=[A-Za-z])|(?<=[A-Za-z]) (?=[0-9])"  # is no token
ENDING = r"'(?:s|t|re|ve|ll|d|m)(?![A-Za-z])"
MIXED = r"[0-9]+[A-Za-z][A-Za-z0-9]*|[A-Za-z]+[0-9][A-Za-z0-9]*"  # 5th, 6m
SIGNS = r"[^A-Za-z0-9]+"
NUMBERS = {"digits": "[0-9]", "numbers": "[0-9]+"}
JOINT = "▁"  # stands between any two tokens while they are decoded


def pattern(tokens: str) -> str:
    return "|".join((ENDING, MIXED, NUMBERS[tokens], "[A-Za-z]+", SIGNS))


def pieces(text: str, tokens: str = "digits") -> list[str]:
    """The tokens of a text, as the tokenizer splits it."""
    return [piece for part in re.split(BLANK, text) for piece in re.findall(pattern(tokens), part)]


def word_tokenizer(words: Iterable[str], tokens: str, largest: int) -> PreTrainedTokenizerFast:
    """A tokenizer of these words and signs, with digits or the numbers up to `largest`; any other becomes <unk>."""
    from tokenizers import Regex, decoders, pre_tokenizers

    from cd4lm.data.tiny_tokenizer import chat_tokenizer  # both slow to import, which settings need not wait for

    numbers = range(10) if tokens == "digits" else range(largest + 1)
    known = [*map(str, numbers), *words]
    known += [word.strip() for word in known if word.strip()]  # a sign at the end of a text
    joint = f"{JOINT}(?![A-Za-z0-9])|(?<![A-Za-z0-9]){JOINT}" + ("|(?<=[0-9])▁(?=[0-9])" if tokens == "digits" else "")
    return chat_tokenizer(
        dict.fromkeys(known),
        pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(BLANK), "removed"),
                pre_tokenizers.Split(Regex(pattern(tokens)), "isolated"),
            ]
        ),
        decoders.Sequence(
            [
                decoders.Replace(Regex(r"\A"), JOINT),
                decoders.Fuse(),
                decoders.Replace(Regex(joint), ""),
                decoders.Replace(JOINT, " "),
            ]
        ),
    )
