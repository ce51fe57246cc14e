"""What a text says about its numbers: which stay as they are, which constants its words stand for, and how far they may go."""

import re
from fractions import Fraction

SMALL = "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
TENS = "twenty thirty forty fifty sixty seventy eighty ninety hundred"
NUMBER_WORDS = {word: value for value, word in enumerate(SMALL.split(), start=2)}
NUMBER_WORDS |= {word: 10 * value for value, word in enumerate(TENS.split(), start=2)}
ORDINALS = {word: NUMBER_WORDS[word.removesuffix("th")] for word in ("fourth", "sixth", "seventh", "tenth")}
ORDINALS |= {"second": 2, "third": 3, "fifth": 5, "eighth": 8, "ninth": 9}
# Constants that words stand for. A value is taken as one of these where a question has it in no other way.
SHARES = {
    "half halves halved": (2, Fraction(1, 2)),
    "twice double doubled doubles doubling pair pairs both couple twins": (2,),
    "triple tripled triples thrice third thirds triplets": (3,),
    "quarter quarters": (4, 25),
    "fourth fourths quadruple quadrupled": (4,),
    "fifth fifths": (5,),
    "sixth sixths": (6,),
    "seventh sevenths": (7,),
    "eighth eighths": (8,),
    "ninth ninths": (9,),
    "tenth tenths": (10,),
    "dozen dozens": (12,),
}
FACTS = {
    "percent percentage cent cents penny pennies century meter meters centimeter centimeters cm": (100,),
    "week weeks weekly": (7,),
    "weekday weekdays workday workdays schoolday schooldays nickel nickels": (5,),
    "weekend weekends hands eyes ears legs parents": (2,),
    "fingers toes dime dimes": (10,),
    "month months monthly inch inches": (12,),
    "foot feet": (2, 12),
    "year years yearly annual annually": (12, 52, 365),
    "day days": (24,),
    "daily": (7, 24),
    "hour hours hourly minute minutes second seconds": (60,),
    "pound pounds ounce ounces": (16,),
    "yard yards": (3,),
}
MEANT = {word: values for words, values in (FACTS | SHARES).items() for word in words.split()}
# In an answer these must be the question's own words, for they could spell a number that changes.
TIED_WORDS = {*NUMBER_WORDS, *ORDINALS, *" ".join(SHARES).split(), "thousand", "once", "first"}
LABELS = r"(?:grade|day|week|month|year|chapter|page|level|size|room|number|no\.|step|round|team|box|bus|route|highway|january|february|march|april|may|june|july|august|september|october|november|december|#)\s*$"
PARTS = r"[\s-](?:legs?|legged|wheels?|wheeled|wheeler|sides?|sided|eyes?|ears?|arms|hands|tires?|wings?|fingers?|toes?|tentacles?|horns?|tails?|strings?|corners?|degrees?|dimensional|way|th|st|nd|rd)\b"
BILLS = r"[\s-](?:dollars? )?(?:bills?|notes?|coins?)\b"  # denominations, after an amount of money
TIME = r"\s*(?::\d|(?:a\.?m\b|p\.?m\b|AM\b|PM\b)|o'clock|noon|midnight)"
# How many of the first there are in one of the second: where a text states it, it is a fact; elsewhere it is the most.
UNITS = {
    ("second", "minute"): 60, ("minute", "hour"): 60, ("hour", "day"): 24, ("day", "week"): 7, ("week", "month"): 4,
    ("day", "month"): 30, ("week", "year"): 52, ("month", "year"): 12, ("day", "year"): 365, ("inch", "foot"): 12,
    ("foot", "yard"): 3, ("ounce", "pound"): 16, ("cent", "dollar"): 100, ("egg", "dozen"): 12, ("night", "week"): 7,
    ("time", "week"): None,
}  # fmt: skip
PLURALS = {"inches": "inch", "feet": "foot"}
OF_UNIT = re.compile(
    r"[\s-]([a-z]+)(?: [a-z]+)? (?:in|per|a|an|each|every|make|makes|of the|of|during the)(?: (?:a|an|one|the|each|every))? ([a-z]+)"
)
WAKING = 16  # hours a day that somebody does something


def said_by_words(words: set[str]) -> set[int]:
    """Whole numbers that words spell, and those that an ordinal counts up to or from."""
    found = {NUMBER_WORDS[word] for word in words & NUMBER_WORDS.keys()}
    return found | {ORDINALS[word] + i for word in words & ORDINALS.keys() for i in (-1, 0, 1)}


def words_of(text: str) -> set[str]:
    """The words of a text in lower case."""
    return set(re.findall(r"[a-z]+", text.lower()))


def fixed_numbers(question: str) -> set[Fraction]:
    """Constants that the words of a question stand for."""
    found = {Fraction(value) for word in words_of(question) for value in MEANT.get(word, ())}
    found |= {Fraction(value) for word, value in NUMBER_WORDS.items() if word in words_of(question)}
    for tens, ones in re.findall(r"(twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety)[- ](\w+)", question.lower()):
        found |= {Fraction(NUMBER_WORDS[tens] + NUMBER_WORDS[ones])} if ones in NUMBER_WORDS else set()
    return found


def unit_of(after: str) -> int | None:
    """How many of the unit after a number there are in the unit after that, for instance 7 for ` days a week`."""
    match = OF_UNIT.match(after.lower())
    if match is None:
        return None
    one, other = (PLURALS.get(word, word.removesuffix("s")) for word in match.groups())
    return UNITS.get((one, other))


def is_fixed(text: str, before: str, after: str, largest: int) -> bool:
    """Whether a number of a question stays: no plain count, or one that is a fact of the world or of the language."""
    if not text.isdigit() or not 2 < int(text) <= largest or text[0] == "0":
        return True  # 1 has its singular; 2 is also said by `both`, `other`, `second`, and shares of two people
    number = int(text)
    if re.search(r"[A-Za-z\d.,:/#]$", before) and not re.search(r"[a-z,.:] ?$", before):
        return True
    if re.search(r"(?:[A-Za-z]|\d[-/:.]|/)$", before) or re.match(
        r"[A-Za-z]|[-/:.]\d|\s?/\s?\d|\s?(?:%|percent)", after
    ):
        return True
    if re.search(LABELS, before.lower()) or re.match(PARTS, after) or re.match(TIME, after):
        return True
    if re.search(r"\b(?:at|until|till|from|by)\s*$", before) and re.match(
        r"\s*(?:[.,?]|and|to|in the (?:morning|evening))", after
    ):
        return True  # a time of day
    if re.search(r"\d\s*(?:-|to|and)\s*$", before) and re.match(r"\s?(?:a\.?m|p\.?m)", after, re.IGNORECASE):
        return True
    if re.match(BILLS, after) and (before.endswith("$") or "dollar" in after[:10]):
        return True
    if re.match(r"[\s-]days? (?:in )?(?:a|per|each|every|of the) week", after):  # the text may go on about the others
        return True
    if unit_of(after) == number or (number in (28, 29, 30, 31) and re.match(r"[\s-]days?\b", after)):
        return True
    return bool(
        re.search(r"\b(?:1|one|a|an) [a-z]+ (?:is|has|equals|=|contains) $", before.lower())
        and number in UNITS.values()
    )


def most(text: str, name: str, number: int) -> int | None:
    """The largest value that a slot's surroundings leave sensible, None without one; never under its original value."""
    bounds = []
    for match in re.finditer(r"\{" + name + r"\}", text):
        after, before = text[match.end() :], text[: match.start()]
        bound = unit_of(after)
        bounds += [WAKING if bound == 24 else bound] if bound else []
        bounds += [100] if re.match(r"\s?(?:%|percent)|[\s-]years?[\s-]old", after) else []
        bounds += (
            [99]
            if re.search(r"\b(?:age|aged|is|was|turned|turns)\s+$", before)
            and re.match(r"[.,?]? ", after)
            and "old" in text
            else []
        )
    return max(min(bounds), number) if bounds else None


def article_of(number: int) -> str:
    """`an` before 8, 11, 18 and what is spoken eighty or eight hundred, else `a`."""
    text = str(number)
    return "an" if text[0] == "8" or number in (11, 18) else "a"
