"""A template of GSM8K with the rules that its instances keep, and the instances themselves."""

import math
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, product

from cd4lm.data.arithmetic import Expression
from cd4lm.data.gsm8k_templates import LARGEST, NUMBER, Template
from cd4lm.data.number_words import NUMBER_WORDS, article_of, most, words_of

SPREAD = 2  # the usual one
TRIES = 400  # draws before an instance is given up
SLOT = re.compile(r"\{([qr]\d+)\}")


@dataclass(frozen=True)
class Question(Template):
    """A template with what its instances must satisfy.

    spread: numbers of a question stay within this factor of the original, results within its square.
    """

    spread: int = SPREAD

    @cached_property
    def expressions(self) -> list[Expression]:
        return [Expression.parse(step) for step in self.steps]

    @cached_property
    def original(self) -> dict[str, int]:
        """GSM8K's own values of every name."""
        return self.solve({f"q{i}": number for i, number in enumerate(self.numbers)})[0]

    def solve(self, known: Mapping[str, int]) -> tuple[dict, list]:
        """All values by name, and which operation of all steps gave a whole number, from those of the question."""
        values, whole = dict(known), []
        for i, expression in enumerate(self.expressions):
            found = expression.values(values)
            whole += [type(value) is int for value in found]
            values[f"r{i}"] = found[-1]
        return values, whole

    @property
    def largest(self) -> int:
        """The largest of GSM8K's own numbers that change."""
        return max(self.original[name] for name in self.moving)

    @cached_property
    def moving(self) -> set[str]:
        """Names that depend on the numbers drawn."""
        found = {f"q{i}" for i in range(len(self.numbers))}
        for i, expression in enumerate(self.expressions):
            found |= {f"r{i}"} if expression.symbols & found else set()
        return found

    @cached_property
    def bounds(self) -> dict[str, tuple[int, int]]:
        """Least and largest value of every moving name; 1 stays 1, and nothing else becomes 1."""
        text, bounds = f"{self.question}\n{self.answer}", {}
        for name in self.moving:
            value, factor = self.original[name], self.spread ** (1 if name[0] == "q" else 2)
            top = min(most(text, name, value) or LARGEST, value * factor)
            bounds[name] = (value, value) if value == 1 else (max(2, math.ceil(value / factor)), top)
        return bounds

    @cached_property
    def articles(self) -> dict[str, str]:
        """Names after `a` or `an`, with the article that their numbers must keep."""
        text = f"{self.question}\n{self.answer}"
        found = re.findall(r"\b[Aa]n? \$?\{([qr]\d+)\}", text)
        return {name: article_of(self.original[name]) for name in found}

    @cached_property
    def order(self) -> list[tuple[str | int, str | int]]:
        """Pairs of numbers of the question, the smaller one first, of which one is drawn."""
        plain = SLOT.sub(" ", self.question)
        stay = {int(n) for n in NUMBER.findall(plain) if n.isdigit() and int(n) > 1}
        stay |= {value for word, value in NUMBER_WORDS.items() if word in words_of(plain)}
        near = [*((n, f"q{i}") for i, n in enumerate(self.numbers)), *((n, n) for n in stay)]
        near.sort(key=lambda pair: pair[0])
        pairs = pairwise(near)
        return [(a[1], b[1]) for a, b in pairs if a[0] < b[0] and not (type(a[1]) is int and type(b[1]) is int)]

    def fits(self, drawn: Mapping[str, int], largest: int = LARGEST) -> dict[str, int] | None:
        """All values of an instance, None if the numbers drawn break a rule."""
        for a, b in self.order:
            if (drawn[a] if isinstance(a, str) else a) >= (drawn[b] if isinstance(b, str) else b):
                return None
        if any(article_of(drawn[name]) != article for name, article in self.articles.items() if name in drawn):
            return None
        values, place = dict(drawn), 0
        for i, expression in enumerate(self.expressions):
            name = f"r{i}"
            found = expression.values(values)
            # What was whole or positive on the way stays so: half a person must not appear in the middle of a bracket.
            for value in found:
                if value < 0 or (self._whole[place] and type(value) is not int):
                    return None
                place += 1
            values[name] = found[-1]
            if name in self.moving:
                low, high = self.bounds[name]
                if type(values[name]) is not int or not low <= values[name] <= min(high, largest):
                    return None
                if name in self.articles and article_of(values[name]) != self.articles[name]:
                    return None
        return values

    @cached_property
    def _whole(self) -> list[bool]:
        return self.solve({f"q{i}": number for i, number in enumerate(self.numbers)})[1]

    def domains(self, largest: int = LARGEST) -> dict[str, range]:
        """The values that each number of the question is drawn from."""
        names = [f"q{i}" for i in range(len(self.numbers))]
        return {name: range(self.bounds[name][0], min(self.bounds[name][1], largest) + 1) for name in names}

    def draw(self, rng: random.Random, largest: int = LARGEST, tries: int = TRIES) -> dict[str, int] | None:
        """The values of a random instance; None if none of so many draws fits."""
        domains = self.domains(largest)
        for _ in range(tries):
            values = self.fits({name: rng.choice(domain) for name, domain in domains.items()}, largest)
            if values is not None:
                return values
        return None

    def write(self, values: Mapping[str, int]) -> tuple[str, str]:
        """Question and answer of an instance."""
        question, answer = (SLOT.sub(lambda slot: str(values[slot[1]]), text) for text in (self.question, self.answer))
        return question, answer

    def instances(self, largest: int = LARGEST, draws: int = 1000) -> int:
        """How many instances there are: counted where the draws would do, else estimated from their share that fits."""
        domains = self.domains(largest)
        total = math.prod(map(len, domains.values()))
        if total <= draws:
            return sum(
                self.fits(dict(zip(domains, point, strict=True)), largest) is not None
                for point in product(*domains.values())
            )
        rng = random.Random(f"instances/{self.id}")
        drawn = ({name: rng.choice(domain) for name, domain in domains.items()} for _ in range(draws))
        return round(total * sum(self.fits(d, largest) is not None for d in drawn) / draws)
