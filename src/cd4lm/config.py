"""Strict YAML into frozen dataclasses: an unknown key, a wrong type or a value out of range stops with its name."""

import argparse
import difflib
import os
import sys
import time
import types
import typing
from collections.abc import Sequence
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path

import yaml

SECONDS_FOR_THE_FIRST = 5  # a launcher ends the other processes well within these
TERMINATED = 143  # exit status after SIGTERM once a checkpoint is saved, 128 + 15 as a shell reports it


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
        tree = yaml.safe_load(path.read_text()) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict) or "extends" not in tree:
        return tree
    return merged(read_tree(path.parent / str(tree.pop("extends")), (*extending, path)), tree)


def merged(base: dict, changes: dict) -> dict:
    """`base` with `changes`: dictionaries in both are merged in turn, anything else is replaced."""
    both = {key: merged(base[key], value) for key, value in changes.items() if is_section(base.get(key), value)}
    return base | changes | both


def is_section(*values) -> bool:
    return all(isinstance(value, dict) for value in values)


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
    tree[key] = yaml.safe_load(value)


def build(cls: type, tree: dict, where: str = ""):
    """A dataclass from a nested dictionary; `where` is the dotted name of the section for messages."""
    if not isinstance(tree, dict):
        raise ConfigError(f"{where or 'the file'} must be a section of key: value lines, got {tree!r}")
    known = {field.name: field for field in fields(cls)}
    hints = typing.get_type_hints(cls)
    values = {}
    for key, value in tree.items():
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"
            raise ConfigError(f"unknown key {where + str(key)}: {hint}")
        values[key] = convert(hints[key], value, where + key)
    try:
        return cls(**values)
    except TypeError as error:
        missing = str(error).partition("argument")[2].lstrip("s: ")
        raise ConfigError(f"missing setting {where}{missing}") from error
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{where}{error}") from error


def convert(kind, value, name: str):
    """Check one YAML value against its annotation; ints pass as floats, lists become tuples."""
    if is_dataclass(kind):
        return build(kind, value, name + ".")
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        return convert(next(a for a in arguments if a is not type(None)), value, name)
    if origin is typing.Literal:
        if value not in arguments:
            raise ConfigError(f"{name}={value!r} is not one of {', '.join(map(str, arguments))}")
        return value
    if origin is dict:
        if not isinstance(value, dict):
            raise ConfigError(f"{name}={value!r} must be a section of key: value lines")
        return {str(key): convert(arguments[1], entry, f"{name}.{key}") for key, entry in value.items()}
    if origin is tuple:
        if not isinstance(value, list):
            raise ConfigError(f"{name}={value!r} must be a list")
        if arguments[-1] is Ellipsis:
            return tuple(convert(arguments[0], v, name) for v in value)
        if len(value) != len(arguments):
            raise ConfigError(f"{name}={value!r} must have {len(arguments)} values")
        return tuple(convert(a, v, name) for a, v in zip(arguments, value, strict=True))
    return convert_scalar(kind, value, name)


def convert_scalar(kind: type, value, name: str):
    """One number, string or truth value; YAML reads 5e-6 as a string, so floats are parsed from those too."""
    if kind is float and not isinstance(value, bool):
        try:
            return float(value)
        except (TypeError, ValueError):
            raise ConfigError(f"{name}={value!r} must be a number") from None
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ConfigError(f"{name}={value!r} must be of type {kind.__name__}")
    return value


def dump(config, path: str | Path) -> None:
    """Write a config as the YAML that loads it again."""

    def plain(value):
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        return [plain(v) for v in value] if isinstance(value, (list, tuple)) else value

    Path(path).write_text(yaml.safe_dump(plain(asdict(config)), sort_keys=False))


def require(condition: bool, message: str) -> None:
    """Raise ValueError with a message that names the setting, its value and what to do."""
    if not condition:
        raise ValueError(message)


def one_line(error: Exception) -> str:
    """An error as one line; the system's errors about a file say what to do about it."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}; check the path and its permissions, or choose another folder"
    return " ".join(str(error).split())


def command_line(description: str) -> tuple[str, list[str]]:
    """The arguments that every command of a config takes: a YAML file, then key=value overrides."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="YAML file, for instance one of configs/")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace those of the file")
    arguments = parser.parse_args()
    return arguments.config, arguments.overrides


def exit_with_message(main) -> None:
    """Run a command line's main; bad input prints one line and exits 1, with CD4LM_DEBUG=1 its traceback too.

    Of several processes the first speaks: the others wait, and are ended with it unless the error is theirs alone.
    """
    try:
        main()
    except (ValueError, ArithmeticError, OSError) as error:
        if os.environ.get("CD4LM_DEBUG"):
            raise
        if os.environ.get("RANK", "0") != "0":
            time.sleep(SECONDS_FOR_THE_FIRST)
        sys.exit(f"error: {one_line(error)}")
    except KeyboardInterrupt:
        sys.exit("interrupted; run the same command again to resume")
