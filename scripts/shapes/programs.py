"""The shapes in which a right program must be accepted, for the golds of HumanEval and MBPP."""

from collections.abc import Callable

DEMONSTRATION = (
    'result = ENTRY()\nprint(result)\nassert result == "never"\nraise SystemExit(input("n? "))\nwhile True: pass\n'
)
TESTS = "import pytest\nclass TestIt(unittest.TestCase):\n    def test_it(self):\n        ENTRY(0)\nunittest.main()\n"


def fence(code: str, language: str = "python") -> str:
    return f"```{language}\n{code}\n```"


def indented(text: str, by: str) -> str:
    return "\n".join(by + line if line else line for line in text.split("\n"))


def split_imports(code: str) -> str:
    """Imports in a block of their own, then the rest."""
    lines = code.split("\n")
    imports = [line for line in lines if line.startswith(("import ", "from "))]
    return (
        fence("\n".join(imports or ["import math"]))
        + "\nThen:\n"
        + fence("\n".join(line for line in lines if line not in imports))
    )


SHAPES: dict[str, Callable[[str, str], str]] = {  # of the code and the name of its function
    "block": lambda code, entry: fence(code),
    "block in a section": lambda code, entry: f"<reasoning>\nsteps\n</reasoning>\n<answer>\n{fence(code)}\n</answer>",
    "block without a language": lambda code, entry: fence(code, ""),
    "block of py": lambda code, entry: fence(code, "py"),
    "block of Python3": lambda code, entry: fence(code, "Python3"),
    "no block": lambda code, entry: code,
    "no block, prose around": lambda code, entry: f"Here is the function (it's short):\n\n{code}\n\nThis returns what's asked.",
    "block not closed": lambda code, entry: f"```python\n{code}",
    "block not opened": lambda code, entry: f"{code}\n```\nThis works.",
    "fence cut off": lambda code, entry: f"```python\n{code}\n``",
    "fence doubled": lambda code, entry: f"```python\n```python\n{code}\n```",
    "fence of four": lambda code, entry: f"````python\n{code}\n````",
    "fence of tildes": lambda code, entry: f"~~~python\n{code}\n~~~",
    "block in a list": lambda code, entry: f"1. Code:\n\n{indented(fence(code), '    ')}\n\n2. Done.",
    "empty block first": lambda code, entry: f"```python\n\n```\n{fence(code)}",
    "comment first": lambda code, entry: f"{fence('# the signature')}\n{fence(code)}",
    "example first": lambda code, entry: f"Example:\n{fence('print(1)')}\nSolution:\n{fence(code)}",
    "stub first": lambda code, entry: f"{fence(f'def {entry}(*args):' + chr(10) + '    pass')}\n{fence(code)}",
    "imports apart": lambda code, entry: split_imports(code),
    "marks of few-shot prompts": lambda code, entry: f"[BEGIN]\n{code}\n[DONE]",
    "demonstration in the block": lambda code, entry: fence(f"{code}\n\n{DEMONSTRATION.replace('ENTRY', entry)}"),
    "demonstration in another": lambda code, entry: f"{fence(code)}\nUsage:\n{fence(DEMONSTRATION.replace('ENTRY', entry))}",
    "main guard": lambda code, entry: fence(f'{code}\n\nif __name__ == "__main__":\n    {entry}(input())'),
    "tests after it": lambda code, entry: f"{fence(code)}\n{fence(TESTS.replace('ENTRY', entry))}",
    "shell after it": lambda code, entry: f"{fence(code)}\n{fence('pip install it && python it.py', 'bash')}",
    "Windows line ends": lambda code, entry: fence(code).replace("\n", "\r\n"),
    "text after the end mark": lambda code, entry: f"{fence(code)}<|eot_id|>{fence('raise')}",
}  # fmt: skip
# Of the body alone, which continues HumanEval's prompt.
BODIES: dict[str, Callable[[str], str]] = {
    "body": lambda body: body,
    "body in a block": fence,
    "body without its indent": lambda body: fence(indented(body, "").replace("\n    ", "\n").removeprefix("    ")),
    "body whose first line lost its indent": lambda body: fence(body.lstrip(" ").lstrip("\n")),
    "body with prose after it": lambda body: f"{body}\nThis returns what's asked.",
}
