r"""Units behind and currencies before a number: `120 \text{ ft}^2`, `\$18.00`, `42 ways`, `20\%`, `90^\circ`, `1.5 million`."""

import re

from evaluation.metrics.symbols import CURRENCY

# One unit: how it is written, and its one name. Powers follow as ^2, squared or square.
_UNITS = {
    "cm": "cm centimeter centimeters centimetre centimetres",
    "mm": "mm millimeter millimeters millimetre millimetres",
    "m": "m meter meters metre metres",
    "km": "km kilometer kilometers kilometre kilometres",
    "in": "in inch inches",
    "ft": "ft foot feet",
    "yd": "yd yard yards",
    "mi": "mi mile miles",
    "degree": "° deg degree degrees",
    "radian": "rad radian radians",
    "cent": "cent cents ¢",
    "dollar": f"{CURRENCY} dollar dollars usd buck bucks",
    "euro": "€ euro euros eur",
    "pound sterling": "£ gbp",
    "percent": "% percent percents pct",
    "s": "s sec secs second seconds",
    "min": "min mins minute minutes",
    "h": "h hr hrs hour hours",
    "day": "day days",
    "week": "week weeks",
    "year": "yr yrs year years",
    "g": "g gram grams",
    "kg": "kg kilogram kilograms",
    "lb": "lb lbs pound pounds",
    "oz": "oz ounce ounces",
    "l": "l liter liters litre litres",
    "ml": "ml milliliter milliliters",
    "unit": "unit units",
}
UNIT_OF = {spelling: name for name, spellings in _UNITS.items() for spelling in spellings.split()}
_BARE = sorted((s for s in UNIT_OF if s.isalpha() and len(s) > 1), key=len, reverse=True)  # 5cm without a space
_WORD = r"[A-Za-z][A-Za-z'’/.-]*"
_TAIL = re.compile(
    rf"(?P<rest>.*(?:[\d)}}\]]|\d\.)|.*\\[A-Za-z]+)\s*(?:\\text\s*\{{(?P<text>[^{{}}]*)\}}|(?P<sign>[°%¢€£{CURRENCY}])"
    rf"|(?P<words>(?:(?<=\d)(?:{'|'.join(_BARE)})\b|(?<=[\s}}]){_WORD})(?:\s+{_WORD})*))"
    r"\s*(?:\^\s*\{?\s*(?P<power>\d)\s*\}?)?(?:\s*/\s*\\text\s*\{[^{}]*\})?",
    re.DOTALL,
)
_FACTOR = r"\\text\s*\{[^{}]*\}\s*(?:\^\s*\{?\s*-?\d\s*\}?)?"
_COMPOUND = re.compile(  # \frac{\text{m}}{\text{s}} and \text{m} \cdot \text{s}^{-1}
    rf"(?P<rest>.*\S)\s*(?P<unit>\\frac\s*\{{{_FACTOR}\}}\s*\{{{_FACTOR}\}}|{_FACTOR}(?:\s*(?:/|\\cdot)?\s*{_FACTOR})+)",
    re.DOTALL,
)
_MONEY = re.compile(
    rf"(?P<minus>-?)\s*(?P<sign>[{CURRENCY}€£¥₹]|US{CURRENCY}|Rs\.?|USD)\s*(?P<rest>-?\s*[\d.\\(].*)", re.DOTALL
)
# Words that make the number before them another number, or one of several.
_NOT_UNITS = re.compile(
    r"\b(?:and|or|not|nor|but|plus|minus|times|divided|over|than|hundreds?|thousands?|millions?|billions?|trillions?"
    r"|dozens?|half|halves|thirds?|quarters?|to|through|mod|cup|cap|is|are|was|if|when|where|because|since)\b",
    re.IGNORECASE,
)
_SCALE = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}
_SCALED = re.compile(
    rf"(?P<rest>.*\d)\s*(?:\\text\s*\{{\s*)?(?P<word>{'|'.join(_SCALE)})s?\b\s*(?P<more>.*)", re.IGNORECASE | re.DOTALL
)


def split_unit(text: str, letters: bool = False) -> tuple[str, str | None]:
    """A text without its unit, and the unit's one name with its power: ("120", "ft^2"); None where it has none.

    letters: whether a single letter can be a unit (`5 m`), since there are no variables.
    """
    text = text.strip()
    if found := _MONEY.fullmatch(text):
        rest, _ = split_unit(found["minus"] + found["rest"], letters)  # `$18 per day` is money first
        return rest, UNIT_OF.get(found["sign"].lower(), "dollar")
    if found := _COMPOUND.fullmatch(text):
        return found["rest"].strip(), found["unit"]
    found = _TAIL.fullmatch(text)
    if found is None:
        return text, None
    words = (found["text"] or found["sign"] or found["words"] or "").strip().strip(".").lower()
    variable = found["words"] is not None and len(words) == 1 and not (letters and words in UNIT_OF)  # 2k
    if variable or _NOT_UNITS.search(words) or re.search(r"\d", words):
        return text, None
    return found["rest"].strip(), unit_name(words, found["power"]) if words else None


def unit_name(words: str, power: str | None) -> str:
    """The one name of a unit in words: `square feet` and `ft` with power 2 are `ft^2`."""
    power = power or "1"
    for prefix, exponent in (("square", "2"), ("sq", "2"), ("cubic", "3"), ("cu", "3")):
        if re.match(rf"{prefix}\b\.?\s*", words):
            words, power = re.sub(rf"^{prefix}\b\.?\s*", "", words) or "units", exponent
    for suffix, exponent in (("squared", "2"), ("cubed", "3")):
        if words.endswith(suffix):
            words, power = words.removesuffix(suffix).strip(), exponent
    name = UNIT_OF.get(words, words)
    return name if power == "1" else f"{name}^{power}"


def is_known(unit: str) -> bool:
    """Whether a unit's name is one of the table, so that another name is another unit."""
    return unit.partition("^")[0] in _UNITS


def scaled(text: str) -> str:
    """A number with its scale in words as a product: `1.5 million dollars` is `1.5*1000000 dollars`."""
    found = _SCALED.fullmatch(text)
    if found is None:
        return text
    more = found["more"].lstrip("} ") if found["more"].strip(" }") else ""
    return f"{found['rest']}*{_SCALE[found['word'].lower()]} {more}".strip()
