"""Exact arithmetic of a bracket such as `48/2` or `(q0-r1)*0.2`: parsed once, evaluated many times.

Symbols are q0, q1, ... (numbers of a question) and r0, r1, ... (results of earlier brackets); anything else is constant.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

TOKEN = re.compile(r"\s*([qr]\d+|\d+(?:\.\d+)?%?|\.\d+%?|[-+*/()])")
RANK = {"+": 1, "-": 1, "*": 2, "/": 2}


class NotArithmetic(ValueError):
    """A text that is not a chain of + - * / with parentheses, or divides by zero."""


def tokens_of(text: str) -> list[str]:
    """Numbers, symbols, operators and parentheses of an expression. Raises NotArithmetic for anything else."""
    found, place, text = [], 0, text.strip()
    while place < len(text):
        match = TOKEN.match(text, place)
        if match is None:
            raise NotArithmetic(f"{text!r} is no arithmetic at {text[place:]!r}")
        found.append(match[1])
        place = match.end()
    return found


def constant(text: str) -> Fraction:
    """A number as written: 12, 0.2, .2 or 20%."""
    return Fraction(text[:-1]) / 100 if text.endswith("%") else Fraction(text)


def postfix(tokens: Sequence[str]) -> list[str]:
    """Tokens in the order in which a stack evaluates them (shunting yard, Dijkstra 1961). Raises NotArithmetic."""
    out, waiting, operand_next = [], [], True
    for token in tokens:
        if (token == "(" or token not in (*RANK, ")")) != operand_next:
            raise NotArithmetic(f"{token!r} is out of place in {' '.join(tokens)}")
        if token in RANK:
            while waiting and waiting[-1] != "(" and RANK[waiting[-1]] >= RANK[token]:
                out.append(waiting.pop())
            waiting.append(token)
            operand_next = True
        elif token == "(":
            waiting.append(token)
        elif token == ")":
            while waiting and waiting[-1] != "(":
                out.append(waiting.pop())
            if not waiting:
                raise NotArithmetic(f"a parenthesis is not opened in {' '.join(tokens)}")
            waiting.pop()
        else:
            out.append(token)
            operand_next = False
    out += reversed(waiting)
    if operand_next or "(" in out:
        raise NotArithmetic(f"{' '.join(tokens)} is not complete")
    return out


@dataclass(frozen=True)
class Expression:
    """One bracket. text: as it is stored; program: its postfix form, constants as numbers and symbols as text."""

    text: str
    program: tuple

    @classmethod
    def parse(cls, text: str) -> "Expression":
        order = postfix(tokens_of(text))
        whole = [token if token in RANK or token[0] in "qr" else constant(token) for token in order]
        return cls(text, tuple(int(n) if isinstance(n, Fraction) and n.denominator == 1 else n for n in whole))

    @property
    def symbols(self) -> set[str]:
        return {item for item in self.program if isinstance(item, str) and item not in RANK}

    def values(self, known: Mapping[str, int | Fraction]) -> list[int | Fraction]:
        """The value of every operation in order, the result last; whole ones are int. Raises NotArithmetic for x / 0."""
        stack, found = [], []
        for item in self.program:
            if item not in RANK:
                stack.append(known[item] if isinstance(item, str) else item)
                continue
            b, a = stack.pop(), stack.pop()
            stack.append(apply(item, a, b))
            found.append(stack[-1])
        return found or stack


def apply(op: str, a: int | Fraction, b: int | Fraction) -> int | Fraction:
    """a op b exactly, an int where it is whole."""
    if op == "/":
        if b == 0:
            raise NotArithmetic(f"{a} / 0")
        if type(a) is int and type(b) is int and a % b == 0:
            return a // b
        value = Fraction(a) / b
    else:
        value = a + b if op == "+" else a - b if op == "-" else a * b
    return value if type(value) is int or value.denominator != 1 else int(value)
