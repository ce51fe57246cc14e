"""Inside the sandbox, the generated program's process: run it, then do what the tests ask through the pipe.

Values cross as JSON: plain ones as they are, the rest tagged; objects without a plain form (a Node, a generator) stay here
and are known to the tests by a number.
"""

import json
import operator
import os
import resource
import sys
import types
from fractions import Fraction
from numbers import Integral, Real

import filter as call_filter  # both the sandbox's own, evaluation/metrics/sandbox
import landlock

KINDS = {kind.__name__: kind for kind in (list, tuple, set, frozenset)}


def encode(value, handle):
    """A value as JSON: plain ones as they are, the rest as [tag, ...]; handle(value) for what has no plain form."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Fraction):
        return ["fraction", value.numerator, value.denominator]
    if isinstance(value, Real):
        return float(value)
    if isinstance(value, complex):
        return ["complex", value.real, value.imag]
    if isinstance(value, (bytes, bytearray)):
        return ["bytes", value.hex()]
    for name, kind in KINDS.items():
        if isinstance(value, kind):
            return [name, *(encode(item, handle) for item in value)]
    if isinstance(value, dict):
        return ["dict", *([encode(k, handle), encode(v, handle)] for k, v in value.items())]
    if type(value).__module__ == "numpy" and type(value).__name__ in ("bool", "bool_"):
        return bool(value)
    return ["handle", handle(value)]


def decode(value, from_handle):
    """The inverse of encode."""
    if not isinstance(value, list):
        return value
    tag, *items = value
    if tag in KINDS:
        return KINDS[tag](decode(item, from_handle) for item in items)
    if tag == "dict":
        return {decode(k, from_handle): decode(v, from_handle) for k, v in items}
    if tag == "fraction":
        return Fraction(*items)
    if tag == "complex":
        return complex(*items)
    if tag == "bytes":
        return bytes.fromhex(items[0])
    if tag == "handle":
        return from_handle(items[0])
    raise ValueError(f"unknown tag {tag!r}")


def send(pipe, message) -> None:
    pipe.write(json.dumps(message).encode() + b"\n")
    pipe.flush()


OPERATIONS = {
    "call": lambda function, arguments, named: function(*arguments, **named),
    "getattr": getattr,
    "setattr": setattr,
    "getitem": operator.getitem,
    "setitem": operator.setitem,
    "len": len,
    "bool": bool,
    "iter": iter,
    "next": next,
}


def serve(requests, replies, limits: dict) -> None:
    """Run the program, then do what the tests ask until they are done."""
    restrict(limits)
    module = types.ModuleType("solution")
    sys.modules["solution"] = module
    objects = []

    def handle(value) -> int:
        found = next((i for i, known in enumerate(objects) if known is value), None)
        if found is None:
            objects.append(value)
        return len(objects) - 1 if found is None else found

    def run(program: str, names: list[str]) -> dict:
        exec(compile(program, "solution", "exec"), module.__dict__)
        defined = {name: module.__dict__[name] for name in names if name in module.__dict__}
        modules = [name for name, value in defined.items() if isinstance(value, types.ModuleType)]
        values = {name: encode(value, handle) for name, value in defined.items() if name not in modules}
        return {"modules": modules, "values": values}

    def operate(operation: str, *arguments):
        return encode(OPERATIONS[operation](*(decode(a, objects.__getitem__) for a in arguments)), handle)

    for line in requests:
        name, *arguments = json.loads(line)
        try:
            reply = {"value": run(*arguments) if name == "run" else operate(name, *arguments)}
        except BaseException as error:  # whatever a program raises, SystemExit too, is its result
            reply = {"error": type(error).__name__, "detail": str(error)[:500]}
        send(replies, reply)


def restrict(limits: dict) -> None:
    """Limits of the program's process; without the system call filter at least no further process for a plain user."""
    megabyte = 1 << 20
    wanted = {
        resource.RLIMIT_CPU: limits["cpu_seconds"],
        resource.RLIMIT_FSIZE: limits["file_mb"] * megabyte,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
    }
    if sys.platform == "linux":  # macOS refuses this limit
        wanted[resource.RLIMIT_AS] = limits["memory_mb"] * megabyte
    if not limits["filter"]:
        wanted[resource.RLIMIT_NPROC] = 0
    for name, value in wanted.items():
        hard = resource.getrlimit(name)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(name, (value, value))
    if sys.platform == "linux":
        call_filter.give_up_privileges()
    if limits["readable"] is not None:
        landlock.allow_reading(limits["readable"])
    if limits["filter"]:
        call_filter.apply(read_only=limits["read_only"])
    sys.path.remove(os.path.dirname(os.path.abspath(__file__)))
