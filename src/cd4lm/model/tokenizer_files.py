"""The files of a tokenizer, and whether tokenizer.json is all of it, so that it can be used without transformers."""

from pathlib import Path

from tokenizers import AddedToken, Tokenizer
from tokenizers.processors import TemplateProcessing

from cd4lm.io import is_lfs_pointer
from cd4lm.model.checkpoint import CheckpointError, read_json

CONFIG, BACKEND, TEMPLATE, NAMES = (
    "tokenizer_config.json",
    "tokenizer.json",
    "chat_template.jinja",
    "special_tokens_map.json",
)
# Classes that add nothing to tokenizer.json: the name in transformers 4 and that in 5.
PLAIN_CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")
# Options with which transformers changes what tokenizer.json does.
ACTIVE_OPTIONS = (
    "add_bos_token",
    "add_eos_token",
    "add_prefix_space",
    "clean_up_tokenization_spaces",
    "model_specific_special_tokens",
    "split_special_tokens",
)
ADDED = "added_tokens.json"
MORE_FILES = (ADDED, "additional_chat_templates")


class UnsupportedTokenizer(Exception):
    """A tokenizer that is more than its tokenizer.json, or has none: transformers must load it."""


def need(condition: bool, reason: str) -> None:
    if not condition:
        raise UnsupportedTokenizer(reason)


def unusable(folder: str | Path, error: Exception) -> CheckpointError:
    reason = next(filter(str.strip, str(error).splitlines()), type(error).__name__)
    return CheckpointError(f"{folder} has no usable tokenizer ({reason}): copy the tokenizer files beside the weights")


def read_config(folder: Path) -> dict:
    """tokenizer_config.json. Raises UnsupportedTokenizer for options that tokenizer.json does not know."""
    for name in (CONFIG, BACKEND):
        need((folder / name).is_file(), f"{folder} has no {name}")
        check_whole(folder / name)
    for name in MORE_FILES:
        need(not (folder / name).exists(), f"{folder} has {name}")
    try:
        config = read_json(folder / CONFIG)
        names = read_json(folder / NAMES) if (folder / NAMES).is_file() else {}
    except ValueError as error:
        raise unusable(folder, error) from error
    need(config.get("tokenizer_class") in PLAIN_CLASSES, f"tokenizer_class is {config.get('tokenizer_class')}")
    need("AutoTokenizer" not in config.get("auto_map", {}), "the tokenizer brings code of its own")
    for option in ACTIVE_OPTIONS:
        need(not config.get(option), f"{option} is set")
    different = special_tokens(names).items() - special_tokens(config).items()
    need(not different, f"{NAMES} and {CONFIG} differ in {dict(different)}")
    return config


def check_whole(file: Path) -> None:
    """Raise CheckpointError for a file of which only the pointer was downloaded."""
    with open(file, "rb") as opened:
        if is_lfs_pointer(opened.read(200)):
            raise CheckpointError(f"{file} is a Git LFS pointer: run `git lfs pull`, or download it")


def id_of_token(folder: Path, token: str) -> int | None:
    """The id of a token in the tokenizer files of a folder; None where none of them has it.

    Raises ValueError for files that differ or cannot be read.
    """
    found: dict[str, int | None] = {}
    try:
        if (folder / BACKEND).is_file():
            check_whole(folder / BACKEND)
            found[BACKEND] = backend_of(folder).token_to_id(token)
        if (folder / CONFIG).is_file():
            listed = read_json(folder / CONFIG).get("added_tokens_decoder", {}).items()
            found[CONFIG] = next((int(i) for i, added in listed if as_added(added).content == token), None)
        if (folder / ADDED).is_file():
            found[ADDED] = read_json(folder / ADDED).get(token)
    except (AttributeError, LookupError, TypeError) as error:
        raise unusable(folder, error) from error
    ids = {number for number in found.values() if number is not None}
    if len(ids) > 1:
        raise ValueError(f"{token} is {found} in the tokenizer files: they are not of one model, copy them again")
    return ids.pop() if ids else None


def named_token(folder: Path, kind: str) -> str | None:
    """The token that a folder's tokenizer files name as eos_token, ...; None where none does. Raises ValueError."""
    files = (folder / name for name in (NAMES, CONFIG))
    try:
        named = [special_tokens(read_json(file)) for file in files if file.is_file()]
    except (LookupError, TypeError) as error:
        raise unusable(folder, error) from error
    return next((tokens[kind] for tokens in reversed(named) if kind in tokens), None)


def special_tokens(config: dict) -> dict[str, str]:
    """The special tokens by name (eos_token, ...); files give each as a string or with its flags."""
    named = {key: value for key, value in config.items() if key.endswith("_token") and value}
    return {key: value["content"] if isinstance(value, dict) else value for key, value in named.items()}


def read_template(folder: Path, config: dict) -> str | None:
    """The chat template, from its own file if there is one. Raises UnsupportedTokenizer for a choice of several."""
    if (folder / TEMPLATE).is_file():
        return (folder / TEMPLATE).read_text(encoding="utf-8")
    template = config.get("chat_template")
    need(template is None or isinstance(template, str), "there are several chat templates")
    return template


def backend_of(folder: Path) -> Tokenizer:
    """tokenizer.json as the library reads it. Raises CheckpointError if it cannot."""
    try:
        return Tokenizer.from_file(str(folder / BACKEND))
    except Exception as error:  # the library raises no narrower class
        raise unusable(folder, error) from error


def read_backend(folder: Path, config: dict) -> Tokenizer:
    """tokenizer.json. Raises UnsupportedTokenizer unless the tokens that the configuration names are in it as named."""
    backend = backend_of(folder)
    known = backend.get_added_tokens_decoder()
    for number, token in config.get("added_tokens_decoder", {}).items():
        found = known.get(int(number))
        need(found is not None and flags(found) == flags(as_added(token)), f"added token {number} is not {token}")
    own = {token.content: flags(token) for token in known.values()}
    more = [*config.get("extra_special_tokens", []), *config.get("additional_special_tokens", [])]
    for token in (*(config[key] for key in special_tokens(config)), *more):
        added = as_added(token)
        need(own.get(added.content) == flags(added), f"special token {added.content} is not an added token")
    if "add_bos_token" in config or "add_eos_token" in config:  # said to be off, which replaces what is in the file
        backend.post_processor = TemplateProcessing(single="$A:0", pair="$A:0 $B:1", special_tokens=[])
    backend.no_truncation()
    backend.no_padding()
    return backend


def as_added(token: str | dict) -> AddedToken:
    """A token as the configuration names it: a string stands for a special one without other flags."""
    if isinstance(token, str):
        return AddedToken(token, special=True, normalized=False)
    known = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")
    fields = {"special": True} | {name: token[name] for name in known if name in token}
    return AddedToken(**fields)


def flags(token: AddedToken) -> tuple:
    return (token.content, token.single_word, token.lstrip, token.rstrip, token.normalized, token.special)
