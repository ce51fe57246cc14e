"""From a row (question, answer) to token ids with an exact boundary between prompt and answer."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.utils.data import Dataset

from cd4lm.config import require
from cd4lm.data.rows import check_texts
from cd4lm.model.configuration import DiffusionConfig
from cd4lm.model.tokenizer import Tokenizer
from cd4lm.settings import FormatConfig

TURNS = ("<|eot_id|>", "<|im_end|>")  # end-of-turn tokens of LLaDA's and Dream's chat templates


def encode_prompt(
    tokenizer: Tokenizer,
    question: str,
    template: str | None = None,
    system: str | None = None,
    earlier: Sequence[dict] = (),
) -> list[int]:
    """Token ids of a question, in the tokenizer's chat template, after a system message if there is one, or in raw text.

    earlier: messages (role, content) of the conversation before the question, for the chat template.
    Raises ValueError if it is empty, and for a chat template that leaves the system message out.
    """
    require(bool(question.strip()), "the prompt is empty: write a question")
    if template is None:
        messages = [] if system is None else [{"role": "system", "content": system}]
        text = chat_text(tokenizer, [*messages, *earlier, {"role": "user", "content": question}])
        shown = system is None or system.strip() in text
        require(
            shown, f"the chat template of {tokenizer.name_or_path} leaves system messages out: use one that shows them"
        )
    else:
        text = template.replace("{question}", question)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def chat_text(tokenizer: Tokenizer, conversation: Sequence[dict]) -> str:
    """A conversation up to where the model answers, in the tokenizer's chat template.

    Raises ValueError without a template and for one that fails, with advice that every command can follow.
    """
    name = tokenizer.name_or_path
    advice = "put the chat_template.jinja of its base model into that folder"
    require(tokenizer.chat_template is not None, f"{name} has no chat template: {advice}")
    try:
        return tokenizer.apply_chat_template(conversation, add_generation_prompt=True, tokenize=False)
    except ValueError:
        raise
    except Exception as error:  # a template is a program, which may raise anything
        raise ValueError(f"the chat template of {name} cannot be used ({error}): {advice}") from error


def check_token_ids(config: DiffusionConfig, tokenizer: Tokenizer) -> None:
    """Raise ValueError unless a checkpoint's tokenizer has the model's mask token, and ends that the model knows."""
    name, mask = tokenizer.name_or_path, config.mask_token_id
    require(
        tokenizer.mask_token_id in (None, mask),
        f"{name}: mask_token_id={mask} in config.json, but the tokenizer's {tokenizer.mask_token} is "
        f"{tokenizer.mask_token_id}: correct one of them",
    )
    for end in end_ids(tokenizer):
        require(
            end < config.embedding_size,
            f"{name}: the tokenizer's {tokenizer.convert_ids_to_tokens(end)} is {end}, outside the vocabulary of "
            f"{config.embedding_size}: take the tokenizer files of this model",
        )


def encode_answer(tokenizer: Tokenizer, answer: str, config: FormatConfig) -> list[int]:
    """Token ids of an answer and what ends it, tokenised apart from the prompt so that the boundary is exact.

    Raises ValueError where the answer is to end with an end-of-turn token that the tokenizer does not have.
    """
    ids = tokenizer(answer, add_special_tokens=False)["input_ids"]
    ids += [end_of_turn(tokenizer)] if config.end == "turn" else []
    count = {"none": 0, "one": 1, "fill": max(1, config.answer_length - len(ids))}[config.eos]
    return ids + [tokenizer.eos_token_id] * count


class AnswerDataset(Dataset):
    """Rows as token ids: prompt, answer, and the row's number, from which its masks are drawn.

    `skipped` counts rows longer than max_length, which are left out rather than cut inside the answer. source: where
    the rows come from, for messages.
    """

    def __init__(self, rows: Sequence[dict], tokenizer: Tokenizer, config: FormatConfig, source: str = "the data"):
        self.examples, self.skipped = [], 0
        end_ids(tokenizer)  # an answer needs an EOS
        require(bool(rows), f"{source} has no rows: prepare it with scripts/prepare_data.py")
        check_texts(rows, ("question", "answer"), source)
        for index, row in enumerate(rows):
            example = {
                "example_id": index,
                "prompt": encode_prompt(tokenizer, row["question"], config.prompt_template),
                "answer": encode_answer(tokenizer, row["answer"], config),
            }
            if len(example["prompt"]) + len(example["answer"]) > config.max_length:
                self.skipped += 1
            else:
                self.examples.append(example)
        require(
            bool(self.examples),
            f"no row fits max_length={config.max_length} tokens ({self.skipped} are longer): raise it",
        )

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> dict:
        return self.examples[index]


@dataclass(frozen=True)
class AnswerCollator:
    """Batch examples, padded on the right: input_ids, attention_mask, answer (bool) of (B, L); two vectors (B,).

    example_id, and prompt_length in tokens, from which a block-causal model tells where its blocks start. `asked` of an
    example, a bool for each token of its answer, leaves the others as given as the prompt.
    """

    pad_id: int
    attend_padding: bool = False

    def __call__(self, examples: Sequence[dict]) -> dict[str, torch.Tensor]:
        rows = [e["prompt"] + e["answer"] for e in examples]
        B, L = len(rows), max(map(len, rows))
        input_ids = torch.full((B, L), self.pad_id)
        attention_mask = torch.full((B, L), int(self.attend_padding))
        answer = torch.zeros(B, L, dtype=torch.bool)
        for i, (example, row) in enumerate(zip(examples, rows, strict=True)):
            input_ids[i, : len(row)] = torch.tensor(row)
            attention_mask[i, : len(row)] = 1
            answer[i, len(example["prompt"]) : len(row)] = torch.tensor(example.get("asked", True))
        numbers = {
            "example_id": torch.tensor([e["example_id"] for e in examples]),
            "prompt_length": torch.tensor([len(e["prompt"]) for e in examples]),
        }
        return {"input_ids": input_ids, "attention_mask": attention_mask, "answer": answer} | numbers


def end_ids(tokenizer: Tokenizer) -> tuple[int, ...]:
    """Tokens that end an answer: EOS, and the end-of-turn token of LLaDA's or Dream's chat template if there is one.

    Raises ValueError for a tokenizer that names no EOS.
    """
    require(
        tokenizer.eos_token_id is not None,
        f"the tokenizer of {tokenizer.name_or_path} has no EOS: name eos_token in its tokenizer_config.json",
    )
    return tuple(dict.fromkeys((tokenizer.eos_token_id, *turn_ids(tokenizer))))


def turn_ids(tokenizer: Tokenizer) -> list[int]:
    """The end-of-turn tokens that a tokenizer has, of those in TURNS."""
    turns = [tokenizer.convert_tokens_to_ids(turn) for turn in TURNS]
    return [turn for turn in turns if turn is not None and turn != tokenizer.unk_token_id]


def end_of_turn(tokenizer: Tokenizer) -> int:
    """The end-of-turn token. Raises ValueError for a tokenizer that has none."""
    found = turn_ids(tokenizer)
    require(
        bool(found),
        f"format.end=turn needs {' or '.join(TURNS)}, which the tokenizer of {tokenizer.name_or_path} does not have: "
        "use format.end=eos",
    )
    return found[0]
