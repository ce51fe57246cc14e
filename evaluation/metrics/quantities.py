r"""Exact values of written numbers: `1,234.50`, `1.5 \times 10^6`, `137 \frac{1}{2}`."""

import re
from fractions import Fraction
from math import factorial

_EXPONENT, _DIGITS = 1000, 4000  # beyond these a number is not an answer, and its value would fill the memory
# Thousands parted by commas (in lakh and crore too), spaces, apostrophes or underscores, or by two or more full stops.
_GROUPED = r"\d{1,3}(?:,\d{3})+(?![\d,])|\d{1,2}(?:,\d{2})+,\d{3}(?![\d,])|\d{1,3}(?:['\u00a0_]\d{3})+(?!\d)"
_DOTTED = r"\d{1,3}(?:\.\d{3}){2,}(?![\d.])"
NUMBER = rf"(?:(?:{_DOTTED})|(?:(?:{_GROUPED})|\d+)(?:\.\d+|\.(?!\w))?|\.\d+)(?:[eE][+-]?\d{{1,5}}(?!\w))?"
_SPACED = re.compile(r"(?<![\d.,])\d{1,3}(?: \d{3})+(?![\d,])")
_TOKEN = re.compile(
    rf"\s*(?:(?P<number>{NUMBER})|(?P<sign>\\frac|\\times|\\cdot|\\div|\*\*|[-+*/^(){{}}!\[\]×])|(?P<by>x(?=\s*\d)))"
)
_SIGNS = {r"\times": "*", r"\cdot": "*", "×": "*", r"\div": "/", "**": "^", "[": "(", "]": ")"}


def decimal_value(text: str) -> Fraction:
    """A number token. Raises ValueError where it is none or is too long."""
    if len(text) > _DIGITS:
        raise ValueError("the number is too long")
    if re.fullmatch(_DOTTED, text):
        text = text.replace(".", "")
    text = re.sub(r"[,'_\s]", "", text)
    _, _, exponent = text.lower().partition("e")
    if exponent and abs(int(exponent)) > _EXPONENT:
        raise ValueError("the exponent is too large")
    return Fraction(text.rstrip("."))


class Arithmetic:
    """A reader of arithmetic in LaTeX and as typed; value() raises ValueError for whatever else the text holds."""

    def __init__(self, text: str):
        self.tokens: list[Fraction | str] = []
        self.gaps: list[bool] = []  # whether a space stands before the token
        position, text = 0, text.rstrip()
        while position < len(text):
            found = _TOKEN.match(text, position)
            if found is None:
                raise ValueError(f"{text[position:]!r} is no arithmetic")
            if found["number"]:
                self.tokens.append(decimal_value(found["number"]))
            else:
                sign = found["sign"] or "*"
                self.tokens.append(_SIGNS.get(sign, sign))
            self.gaps.append(text[position : position + 1].isspace())
            position = found.end()
        self.at = 0

    def value(self) -> Fraction:
        try:
            result = self.sum()
        except (ZeroDivisionError, OverflowError, RecursionError) as error:
            raise ValueError(f"no value: {error}") from None
        if self.at < len(self.tokens):
            raise ValueError("the arithmetic does not end")
        return result

    def next(self) -> Fraction | str | None:
        return self.tokens[self.at] if self.at < len(self.tokens) else None

    def take(self, *wanted: str) -> str | None:
        token = self.next()
        if isinstance(token, str) and token in wanted:
            self.at += 1
            return token
        return None

    def need(self, wanted: str) -> None:
        if not self.take(wanted):
            raise ValueError(f"{wanted} is missing")

    def sum(self) -> Fraction:
        result = self.product()
        while sign := self.take("+", "-"):
            term = self.product()
            result = result + term if sign == "+" else result - term
        return result

    def product(self) -> Fraction:
        result = self.signed()
        while True:
            if sign := self.take("*", "/"):
                factor = self.signed()
                result = result * factor if sign == "*" else result / factor
            elif self.next() in ("(", "{") and not self.gaps[self.at]:  # 2(3), but not 2 (3)
                result *= self.power()
            else:
                return result

    def signed(self) -> Fraction:
        if sign := self.take("+", "-"):
            return self.signed() if sign == "+" else -self.signed()
        return self.power()

    def power(self) -> Fraction:
        base = self.atom()
        while self.take("!"):
            if base.denominator != 1 or not 0 <= base <= 300:
                raise ValueError("a factorial of a large or no whole number")
            base = Fraction(factorial(int(base)))
        if self.take("^"):
            exponent = self.signed()
            size = max(base.numerator.bit_length(), base.denominator.bit_length())
            if exponent.denominator != 1 or abs(exponent) * size > 4 * _DIGITS:
                raise ValueError("a root, or a power that is too large")
            return base ** int(exponent)
        return base

    def atom(self) -> Fraction:
        token = self.next()
        if isinstance(token, Fraction):
            self.at += 1
            return token + self.mixed() if token.denominator == 1 and token >= 0 else token
        if self.take(r"\frac"):
            return self.fraction()
        for opening, closing in (("(", ")"), ("{", "}")):
            if self.take(opening):
                result = self.sum()
                self.need(closing)
                return result
        raise ValueError("a number is missing")

    def fraction(self) -> Fraction:
        parts = []
        for _ in range(2):
            self.need("{")
            parts.append(self.sum())
            self.need("}")
        return parts[0] / parts[1]

    def mixed(self) -> Fraction:
        r"""The proper fraction of a mixed number after its whole part: `1\frac{4}{5}`, `1 4/5`; else 0."""
        start = self.at
        if self.take(r"\frac"):
            part = self.fraction()
        elif self.at + 2 < len(self.tokens) and self.gaps[self.at] and self.tokens[self.at + 1] == "/":
            above, _, below = self.tokens[self.at : self.at + 3]
            whole = all(isinstance(n, Fraction) and n.denominator == 1 for n in (above, below))
            if not whole:
                return Fraction(0)
            part, self.at = above / below, self.at + 3
        else:
            return Fraction(0)
        if not 0 < part < 1:
            self.at = start
            raise ValueError("a whole number before an improper fraction")
        return part


def value(text: str) -> Fraction | None:
    """The exact value of a text that is arithmetic and nothing else, or None."""
    text = _SPACED.sub(lambda found: found[0].replace(" ", ""), text.strip())
    try:
        return Arithmetic(text).value() if text else None
    except (ValueError, RecursionError):
        return None


def as_text(number: Fraction) -> str:
    """A value as people write it: whole, decimal where that ends, else a fraction."""
    below = number.denominator
    if below == 1:
        return (
            str(number.numerator) if number.numerator.bit_length() < 3 * _DIGITS else "a number of thousands of digits"
        )
    for prime in (2, 5):
        while below % prime == 0:
            below //= prime
    if below == 1 and number.denominator < 10**12:
        return f"{float(number):.12f}".rstrip("0") if abs(number) < 1000 else str(float(number))
    return f"{number.numerator}/{number.denominator}" if number.denominator < 10**100 else "a long fraction"
