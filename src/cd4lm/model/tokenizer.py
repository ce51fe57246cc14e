"""A tokenizer read from tokenizer.json, for decoding without transformers; ids and texts are AutoTokenizer's."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Protocol

from cd4lm.model.tokenizer_files import read_backend, read_config, read_template, special_tokens

# Appended to a message that is to be continued, to find its end in the rendered text.
CONTINUED = "\N{OBJECT REPLACEMENT CHARACTER}continued\N{OBJECT REPLACEMENT CHARACTER} "


class Tokenizer(Protocol):
    """What this package asks of a tokenizer: JsonTokenizer and those of transformers."""

    name_or_path: str
    chat_template: str | None
    bos_token: str | None
    bos_token_id: int | None
    eos_token: str | None
    eos_token_id: int | None
    pad_token: str | None
    pad_token_id: int | None
    mask_token: str | None
    mask_token_id: int | None
    unk_token: str | None
    unk_token_id: int | None

    def __len__(self) -> int: ...

    def __call__(self, text: str, add_special_tokens: bool = True) -> Mapping[str, list[int]]: ...

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str: ...

    def convert_tokens_to_ids(self, token: str) -> int | None: ...

    def convert_ids_to_tokens(self, ids: int) -> str | None: ...

    def get_vocab(self) -> dict[str, int]: ...

    def apply_chat_template(
        self,
        conversation: Sequence[dict],
        *,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        tokenize: bool,
    ) -> str: ...


class JsonTokenizer(Tokenizer):
    """The tokenizer of a checkpoint whose tokenizer_config.json adds only names and a chat template to tokenizer.json.

    Raises UnsupportedTokenizer for any other, CheckpointError for damaged files.
    """

    def __init__(self, folder: Path, *, name: str):
        config = read_config(folder)
        self.name_or_path = name
        self.chat_template = read_template(folder, config)
        self._backend = read_backend(folder, config)
        self._named = special_tokens(config)
        for kind in ("bos_token", "eos_token", "pad_token", "mask_token", "unk_token"):
            token = self._named.get(kind)
            setattr(self, kind, token)
            setattr(self, f"{kind}_id", None if token is None else self._backend.token_to_id(token))

    def __len__(self) -> int:
        return self._backend.get_vocab_size(with_added_tokens=True)

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        """{"input_ids": token ids of a text}; add_special_tokens: with those that the file puts around every text."""
        return {"input_ids": self._backend.encode(text, add_special_tokens=add_special_tokens).ids}

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """The text of token ids, a sequence or a 1-D tensor."""
        ids = ids if isinstance(ids, (list, tuple)) else ids.tolist()
        return self._backend.decode(ids, skip_special_tokens=skip_special_tokens)

    def convert_tokens_to_ids(self, token: str) -> int | None:
        """The id of a token, unk_token_id for one that there is not."""
        found = self._backend.token_to_id(token)
        return self.unk_token_id if found is None else found

    def convert_ids_to_tokens(self, ids: int) -> str | None:
        return self._backend.id_to_token(ids)

    def get_vocab(self) -> dict[str, int]:
        return self._backend.get_vocab(with_added_tokens=True)

    @cached_property
    def _template(self):
        """The compiled template. It comes with a checkpoint, so it runs in jinja's sandbox, as in transformers."""
        from jinja2.ext import loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.filters["tojson"] = to_json
        environment.globals |= {"raise_exception": raise_exception, "strftime_now": strftime_now}
        return environment.from_string(self.chat_template)

    def apply_chat_template(
        self,
        conversation: Sequence[dict],
        *,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        tokenize: bool,
    ) -> str:
        """The text of a conversation, up to where the model answers or goes on with the last message.

        Raises ValueError without a template and for a conversation that the template refuses.
        """
        from jinja2 import TemplateError

        if tokenize:
            raise ValueError("tokenize=True is not supported: pass the text to the tokenizer")
        if self.chat_template is None:
            raise ValueError(f"{self.name_or_path} has no chat template: put a chat_template.jinja into that folder")
        if continue_final_message:
            *before, last = conversation
            conversation = [*before, last | {"content": last["content"] + CONTINUED}]
        try:
            text = self._template.render(
                messages=conversation,
                tools=None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **self._named,
            )
        except TemplateError as error:
            raise ValueError(f"the chat template of {self.name_or_path} refuses this conversation: {error}") from error
        if not continue_final_message:
            return text
        end = text.rindex(CONTINUED.strip())
        # A template that trims the message would have trimmed it without the mark too.
        return text[:end] if text[end:].startswith(CONTINUED) else text[:end].rstrip()


def to_json(value, ensure_ascii: bool = False, indent=None, separators=None, sort_keys: bool = False) -> str:
    """Templates' tojson, which jinja's own would escape for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def raise_exception(message: str) -> None:
    from jinja2 import TemplateError

    raise TemplateError(message)


def strftime_now(form: str) -> str:
    return datetime.now().strftime(form)
