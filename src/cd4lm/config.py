"""Strict YAML into frozen dataclasses: an unknown key, a wrong type or a value out of range stops with its name."""

import argparse
import difflib
import json
import os
import sys
import time
import typing
from collections.abc import Collection, Sequence
from dataclasses import asdict, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

SECONDS_FOR_RANK_0 = 5  # torchrun ends the other processes well within these
TERMINATED = 143  # exit status after SIGTERM once a checkpoint is saved, 128 + 15 as a shell reports it
STRICT = ConfigDict(extra="forbid", strict=True)  # of every dataclass of settings

# What a broken rule of pydantic's is called here; other rules are said in pydantic's own words.
SENTENCES = {
    "bool_type": "must be of type bool",
    "int_type": "must be of type int",
    "string_type": "must be of type str",
    "float_type": "must be a number",
    "tuple_type": "must be a list",
    "too_short": "must hold at least {min_length} value",
    "too_long": "must have {max_length} values",
    "dict_type": "must be a section of key: value lines",
    "dataclass_type": "must be a section of key: value lines",
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "is not one of {expected}",
}


def number_from_text(value):
    """YAML reads 5e-6, which has no decimal point, as a string."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


Number = Annotated[float, BeforeValidator(number_from_text)]
NotNegative = Annotated[Number, Field(ge=0)]
Positive = Annotated[Number, Field(gt=0)]
Share = Annotated[Number, Field(ge=0, le=1)]
Probability = Annotated[Number, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1)]


class ConfigError(ValueError):
    """A setting that cannot be used; the message names it and says what is allowed."""


def load(cls: type, path: str | Path, overrides: Sequence[str] = ()):
    """Read a YAML file into dataclass `cls`, then apply `section.key=value` overrides (values are YAML too).

    `extends: FILE` in it starts from another file beside it: sections are merged, whatever else is said replaces.
    """
    tree = read_tree(Path(path))
    for override in overrides:
        apply_override(tree, override)
    return build(cls, tree)


def read_tree(path: Path, extending: tuple[Path, ...] = ()) -> dict:
    """A YAML file as a nested dictionary, merged over the file that it extends."""
    if not path.is_file():
        raise ConfigError(f"config file {path} does not exist: pass a YAML file, for instance configs/tiny.yaml")
    if path in extending:
        raise ConfigError(f"{path} extends itself: remove one `extends`")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: save it as UTF-8") from error
    tree = read_yaml(text, str(path)) or {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} holds {type(tree).__name__}, not key: value lines: see configs/tiny.yaml")
    if "extends" not in tree:
        return tree
    return merged(read_tree(path.parent / str(tree.pop("extends")), (*extending, path)), tree)


class Loader(yaml.SafeLoader):
    """YAML in which a key stands once, as the standard asks, and not the last of two."""

    def construct_mapping(self, node, deep=False):
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = next((key for i, key in enumerate(keys) if key in keys[:i]), None)
        if twice is not None:
            raise yaml.YAMLError(f"{twice} is given twice")
        return super().construct_mapping(node, deep)


def read_yaml(text: str, place: str):
    """A value in YAML. Raises ConfigError for anything else, `place` being where it stands."""
    try:
        return yaml.load(text, Loader)
    except Exception as error:  # PyYAML raises, besides its own errors, whatever making a value raises
        raise ConfigError(f"{place} is not valid YAML: {one_line(error)}") from error


def merged(base: dict, changes: dict) -> dict:
    """`base` with `changes`: dictionaries in both are merged in turn, anything else is replaced."""
    in_both = [key for key in changes if isinstance(base.get(key), dict) and isinstance(changes[key], dict)]
    return base | changes | {key: merged(base[key], changes[key]) for key in in_both}


def parse_pairs(text: str, where: str, as_text: Collection[str] = ()) -> dict:
    """`a=1,b=x` as a dictionary with YAML values, those of `as_text` as they stand.

    Raises ConfigError for a part without `=` and for a repeated name.
    """
    pairs = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, sign, value = part.partition("=")
        if not sign or not key:
            raise ConfigError(f"{where}{part!r} is not of the form key=value")
        if key in pairs:
            raise ConfigError(f"{where}{key} is given twice")
        pairs[key] = value if key in as_text else read_yaml(value, f"{where}{part!r}")
    return pairs


def apply_override(tree: dict, override: str) -> None:
    """Set `a.b=value` in a nested dictionary, in place."""
    name, sign, value = override.partition("=")
    if not sign or not name:
        raise ConfigError(f"override {override!r} is not of the form section.key=value")
    *sections, key = name.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"override {override!r}: {section} is a value, not a section")
    tree[key] = read_yaml(value, f"override {override!r}")


@cache
def adapter(cls: type) -> TypeAdapter:
    return TypeAdapter(cls)


def build(cls: type, tree: dict, where: str = ""):
    """A dataclass from a nested dictionary, strictly; `where` is what its keys are called with, for instance "train.".

    Raises ConfigError with one line that names the first setting that is wrong, and its value.
    """
    # Through JSON, in which pydantic's strict mode takes a list for a tuple and a dictionary for a dataclass.
    try:
        text = json.dumps(tree, default=str)
    except (TypeError, ValueError, RecursionError) as error:  # keys that are no text, a section that holds itself
        raise ConfigError(f"{where or 'the settings '}cannot be read: {one_line(error)}") from error
    try:
        return adapter(cls).validate_json(text, strict=True, extra="forbid")
    except ValidationError as error:
        raise ConfigError(sentence(error, cls, where)) from error


def sentence(error: ValidationError, cls: type | None = None, where: str = "") -> str:
    """The first thing wrong as one line; of several an unknown key, whose right name may be what is missing."""
    first = min(error.errors(), key=lambda e: e["type"] != "unexpected_keyword_argument")
    kind, place, value, context = first["type"], list(first["loc"]), first["input"], first.get("ctx", {})
    if kind == "missing" and place and isinstance(place[-1], int):  # of a tuple, whose length is its type's
        kind, place, context = "too_long", place[:-1], {"max_length": f"more than {len(value)}"}
    name = where + ".".join(map(str, place))
    if kind == "value_error":  # raised by a check of ours, which names its own setting
        return f"{name}{'.' if place else ''}{context['error']}"
    if kind == "missing":
        return f"missing setting {where}{'.'.join([*map(str, place[:-1]), repr(place[-1])])}"
    if kind == "unexpected_keyword_argument":
        return f"unknown key {name}{hint(cls, place)}"
    said = SENTENCES[kind].format_map(context) if kind in SENTENCES else first["msg"].replace("Input should", "must")
    if kind == "literal_error":
        said = said.replace("'", "").replace(" or ", ", ")
    return f"{name or 'the file'}={value!r} {said}"


def hint(cls: type | None, place: list) -> str:
    """The nearest name to the unknown key at `place`, or all names of its section."""
    for key in place[:-1]:
        if cls is not None and key in (hints := typing.get_type_hints(cls)):  # not the place in a list, a name of ours
            kind = hints[key]
            cls = next((k for k in (kind, *typing.get_args(kind)) if is_dataclass(k)), None)
    if cls is None:
        return ""
    known = [field.name for field in fields(cls)]
    close = difflib.get_close_matches(str(place[-1]), known, n=1)
    return f": did you mean {close[0]}?" if close else f": known: {', '.join(known)}"


def dump(config, path: str | Path) -> None:
    """Write a config as the YAML that loads it again."""
    plain = json.loads(json.dumps(asdict(config)))  # lists, which YAML has, for tuples
    Path(path).write_text(yaml.safe_dump(plain, sort_keys=False))


def flat(tree: dict, where: str = "") -> dict:
    """A nested dictionary with dotted keys."""
    items = {}
    for key, value in tree.items():
        items |= flat(value, f"{where}{key}.") if isinstance(value, dict) else {where + key: value}
    return items


def require(condition: bool, message: str) -> None:
    """Raise ValueError with a message that names the setting, its value and what to do."""
    if not condition:
        raise ValueError(message)


def one_line(error: Exception) -> str:
    """An error as one line; the system's errors about a file say what to do about it."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}; check the path and its permissions, or choose another folder"
    return sentence(error) if isinstance(error, ValidationError) else " ".join(str(error).split())


class CommandParser(argparse.ArgumentParser):
    """A command's parser, described by its module; a mistake is one line that names the nearest option."""

    def __init__(self, description: str):
        super().__init__(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message: str):
        hint = "--help lists the options"
        if message.startswith("unrecognized arguments"):
            words = [word.partition("=")[0] for word in message.split() if word.startswith("--")]
            close = difflib.get_close_matches(words[0], self._option_string_actions, n=1) if words else []
            hint = f"did you mean {close[0]}?" if close else hint
        self.exit(2, f"error: {message}: {hint}\n")


def command_line(description: str) -> tuple[str, list[str]]:
    """The arguments that every command of a config takes: a YAML file, then key=value overrides."""
    parser = CommandParser(description)
    add_config(parser)
    arguments = parser.parse_args()
    return arguments.config, arguments.overrides


def add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", help="YAML file, for instance one of configs/")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace those of the file")


def exit_with_message(main) -> None:
    """Run a command line's main; bad input prints one line and exits 1, with CD4LM_DEBUG=1 its traceback too.

    Of several processes rank 0 prints first: the others wait 5 s, in which the launcher ends them if rank 0 failed.
    """
    try:
        main()
        leave_group()
    except (ValueError, ArithmeticError, OSError) as error:
        if os.environ.get("CD4LM_DEBUG"):
            raise
        if os.environ.get("RANK", "0") != "0":
            time.sleep(SECONDS_FOR_RANK_0)
        leave_group(f"error: {one_line(error)}")
    except KeyboardInterrupt:
        leave_group("interrupted; run the same command again to resume")
    except SystemExit as leaving:
        leave_group(leaving.code)


def leave_group(status: str | int | None = None) -> None:
    """Leave the group of processes that this one joined, if any, and exit with a status as sys.exit takes it.

    With words for a status the process has failed: it goes without leaving in order, since the others may be waiting for it
    inside a collective operation. Of a group it ends without Python's own exit, which now and then aborts in the threads
    that a group leaves behind, after all work is done.
    """
    distributed = sys.modules.get("torch.distributed")  # never imported here: --help must stay fast
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        if isinstance(status, str):
            print(status, file=sys.stderr, flush=True)
            sys.stdout.flush()
            os._exit(1)
        distributed.destroy_process_group()
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(status or 0)
    if status is not None:
        sys.exit(status)
