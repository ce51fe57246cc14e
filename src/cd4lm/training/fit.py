"""Whether an experiment's parts fit each other, from their configurations alone; transformers, which takes seconds, is not needed."""

import importlib.util

from cd4lm.config import require
from cd4lm.data.examples import chat_text, end_of_turn
from cd4lm.decoding.options import DecodingOptions
from cd4lm.model.configuration import DiffusionConfig
from cd4lm.model.loading import load_config
from cd4lm.model.tokenizer import Tokenizer
from cd4lm.settings import ExperimentConfig, FormatConfig


def check_fit(config: DiffusionConfig, tokenizer: Tokenizer, form: FormatConfig, folder: str) -> None:
    """Raise ValueError unless model and tokenizer mean the same by a token id and the rows fit; reads no weights."""
    require(
        len(tokenizer) <= config.embedding_size,
        f"{folder}: the tokenizer has {len(tokenizer)} tokens, the model {config.embedding_size}: they do not fit",
    )
    mask = tokenizer.convert_ids_to_tokens(config.mask_token_id) if config.mask_token_id < len(tokenizer) else None
    named = tokenizer.mask_token_id in (None, config.mask_token_id)
    require(
        mask is not None and named,
        f"{folder}: the model's mask_token_id={config.mask_token_id} is {mask!r} in the tokenizer, whose mask token is "
        f"{tokenizer.mask_token!r} ({tokenizer.mask_token_id}): they do not fit",
    )
    require(
        tokenizer.eos_token_id == config.eos_token_id,
        f"{folder}: EOS is {config.eos_token_id} for the model, {tokenizer.eos_token_id} for the tokenizer: "
        "they do not fit",
    )
    require(tokenizer.pad_token_id is not None, f"{folder}: the tokenizer has no pad token: set pad_token in its files")
    DecodingOptions.stored(folder)  # go into the student's folder at the end
    if form.prompt_template is None:
        chat_text(tokenizer, [{"role": "user", "content": "question"}])
    if form.end == "turn":
        end_of_turn(tokenizer)
    require(
        form.max_length <= config.max_sequence_length,
        f"format.max_length={form.max_length} exceeds the {config.max_sequence_length} positions of {folder}: lower it",
    )


def check_packages(config: ExperimentConfig) -> None:
    """Raise ValueError if an option needs a package that is not installed."""
    for asked, package, option in (
        (config.lora is not None, "peft", "lora"),
        (config.train.optimizer == "adamw_8bit", "bitsandbytes", "train.optimizer=adamw_8bit"),
    ):
        require(
            not asked or importlib.util.find_spec(package) is not None,
            f"{option} needs the package {package}: pip install {package}, or leave the option out",
        )


def student_config(config: ExperimentConfig) -> DiffusionConfig:
    """The student's configuration: that of the checkpoint it starts from, with the attention the experiment asks for.

    Raises ValueError if a block-causal checkpoint would go on with other blocks than its own.
    """
    source = config.init_from or config.teacher
    own, wanted = load_config(source), config.block_causal
    if wanted is not None:
        before = (own.block_length, own.block_grid)
        require(
            own.attention == "bidirectional" or before == (wanted.block_length, wanted.grid),
            f"{source} has blocks of {before[0]} on the grid {before[1]!r}, but block_causal asks for "
            f"{wanted.block_length} on {wanted.grid!r}: use the checkpoint's",
        )
        own.set_attention("block_causal", wanted.block_length, wanted.grid)
    if own.attention == "block_causal":
        config.check_blocks(f"{source}: ", own.block_length, own.block_grid)
    return own
