r"""One way of writing: signs of Unicode and spellings of LaTeX to the plain LaTeX that the readers of answers know.

½ x² √51 –5 ∞ ٣       \frac{1}{2} x^{2} \sqrt{51} -5 \infty 3
\dfrac12 \left( 3 \right)  11,\! 111,\! 100     \frac{1}{2} ( 3 ) 11,111,100
"""

import html
import re
import unicodedata

CURRENCY = "¤"  # a dollar sign that is money; the others delimit mathematics

_SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱ", "0123456789+-=()ni", strict=True))
_SUBSCRIPTS = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎", "0123456789+-=()", strict=True))
_GREEK = dict(zip("αβγδεζηθικλμνξπρστυφχψωΓΔΘΛΞΠΣΦΨΩ", ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu", "nu", "xi", "pi", "rho", "sigma", "tau", "upsilon", "phi", "chi", "psi", "omega", "Gamma", "Delta", "Theta", "Lambda", "Xi", "Pi", "Sigma", "Phi", "Psi", "Omega"], strict=True))  # fmt: skip
_SIGNS = {
    **dict.fromkeys("−–—‐‑‒﹣－", "-"),
    **{letter: f"\\{name} " for letter, name in _GREEK.items()},
    **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff\u00ad\ufe0f\u200e\u200f", ""),
    **dict.fromkeys("\u2009\u202f\u00a0\u2007\u2008", "\u00a0"),  # spaces that stand between groups of digits
    **dict.fromkeys("×✕⨯", "\\times "),
    **dict.fromkeys("⋅·∙∗", "\\cdot "),
    **{"÷": "\\div ", "±": "\\pm ", "∓": "\\mp ", "∞": "\\infty ", "∪": "\\cup ", "∩": "\\cap ", "∈": "\\in "},
    **{"≤": "\\le ", "≥": "\\ge ", "⩽": "\\le ", "⩾": "\\ge ", "≠": "\\ne ", "≈": "\\approx ", "≡": "\\equiv "},
    **{"→": "\\to ", "⇒": "\\to ", "∅": "\\emptyset ", "ℝ": "\\mathbb{R}", "º": "°", "˚": "°", "%": "%", "％": "%"},
    **{"⟨": "\\langle ", "⟩": "\\rangle ", "⁄": "/", "∕": "/", "٫": ".", "٬": ",", "，": ",", "、": ",", "。": "."},
    **{"“": '"', "”": '"', "‘": "'", "’": "'", "…": "...", "＄": "$", "﹩": "$", "•": "* ", "‣": "* "},
}
_ROOT = re.compile(r"([√∛∜])\s*(\d+(?:\.\d+)?|[A-Za-z]|\((?P<inside>[^()]*)\)|\{(?P<braced>[^{}]*)\})")
_DEGREES = {"√": "", "∛": "[3]", "∜": "[4]"}
_RUN = re.compile(f"([{''.join(_SUPERSCRIPTS)}]+)|([{''.join(_SUBSCRIPTS)}]+)")

_ARGUMENT = r"(\{[^{}]*\}|\d|\\[A-Za-z]+|[A-Za-z])"
_TEXT = r"\\(?:text(?:bf|it|rm|sf|tt|normal)?|mbox|mathrm|mathbf|mathit|mathsf|mathtt|boldsymbol|bm|operatorname\*?)"
# In this order: (what it is about, pattern, replacement).
_SPELLINGS = [
    (re.compile(pattern), replacement)
    for _, pattern, replacement in (
        ("delimiters that grow", r"\\(?:left|right|[bB]igg?[lrm]?|middle)(?![A-Za-z])\s*\.?", ""),
        ("style", r"\\(?:displaystyle|textstyle|scriptstyle|limits|nolimits|bf|rm|it|hline)(?![A-Za-z])", ""),
        ("colour, tags, labels", r"\\(?:color|textcolor|tag|label)\*?\s*\{[^{}]*\}|\\underline(?=\s*\{)", ""),
        ("thousands: 1{,}000 and 1,\\!000", r"(?<=\d)\s*(?:\{,\}|,\s*\\!|\\,|\\!|\u00a0)\s*(?=\d{3}(?!\d))", ","),
        ("money", r"\\\$", CURRENCY),
        ("percent", r"\\%", "%"),
        ("spaces", r"(?<!\\)\\(?:[,;:!> ]|(?:quad|qquad|thinspace|enspace|hspace\{[^{}]*\})(?![A-Za-z]))|~|\u00a0", " "),
        ("degrees", r"\^\s*(?:\\circ|\{\s*\\circ\s*\})(?![A-Za-z])|\\(?:degree|textdegree)(?![A-Za-z])|\^\s*\{?°\}?", "°"),
        ("fractions", r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        ("sqrt(2)", r"\\?(?<![A-Za-z])sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        ("sqrt{2}", r"(?<![A-Za-z\\])sqrt(?=\s*[{\[])", r"\\sqrt"),
        ("\\sqrt 2", r"\\sqrt\s*(\[[^\[\]]*\])?\s*(\d|\\pi(?![A-Za-z])|[A-Za-z])", r"\\sqrt\1{\2}"),
        ("\\frac12", r"\\frac\s*(\d|\\[A-Za-z]+|[A-Za-z])(?=\s*[\d{\\A-Za-z])", r"\\frac{\1}"),
        ("\\frac{1}2", r"\\frac\s*(\{(?:[^{}]|\{[^{}]*\})*\})\s*(\d|\\(?!frac)[A-Za-z]+|[A-Za-z])", r"\\frac\1{\2}"),
        ("relations", r"\\(l|g)(?:eq|eqslant)(?![A-Za-z])", r"\\\1e"),
        ("relations as typed", r"<=", r"\\le "),
        ("relations as typed", r">=", r"\\ge "),
        ("plus-minus as typed", r"\+\s*/\s*-|\+-", r"\\pm "),
        ("infinity in words", r"(?<![A-Za-z\\])(?:infinity|infty|inf|oo)(?![A-Za-z])", r"\\infty "),
        ("pi in letters", r"(?<![A-Za-z\\])(?:pi|Pi|PI)(?![A-Za-z])", r"\\pi "),
        ("power as typed", r"(?<=[\w)}])\*\*(?=[\d({-])", "^"),
        ("exponents as typed", r"\^\s*(-?\d{2,}|-\w|\([^()]*\))", r"^{\1}"),
        ("braces of sets", r"\\(?:lbrace(?![A-Za-z])|\{)", r"\\{"),
        ("braces of sets", r"\\(?:rbrace(?![A-Za-z])|\})", r"\\}"),
        ("e in roman", r"\\mathrm\s*\{\s*([ei])\s*\}", r"\1"),
        ("blackboard bold", r"\\mathbb\s*([A-Z])", r"\\mathbb{\1}"),
        ("text commands", _TEXT + r"(?=\s*\{)", r"\\text"),
    )
]  # fmt: skip
_TAGS = re.compile(r"</?(?:b|i|em|strong|u|p|span|div|center|code|big)(?:\s[^<>]*)?/?>|<br\s*/?>", re.IGNORECASE)
_TAG_POWER = re.compile(r"<(sup|sub)>(.*?)</\1>", re.IGNORECASE | re.DOTALL)
_PROSE = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")
_COMMAND_WITH_WORDS = re.compile(r"\\(?:begin|end|text\w*|mbox|math\w+|operatorname)\s*\{[^{}]*\}|\\[A-Za-z]+")
_FUNCTIONS = {"sin", "cos", "tan", "cot", "sec", "csc", "log", "exp", "sqrt", "max", "min", "mod", "inf", "cm", "det"}


def clean(text: str) -> str:
    """A text in the one way of writing; its line breaks and its wrappers stay."""
    text = spelled(signs(_tags(text)))
    return money(text)


def _tags(text: str) -> str:
    if "&" in text:  # only named and numbered entities with their semicolon: & parts a matrix's columns
        text = re.sub(r"&(?:[A-Za-z]{2,8}|#\d{1,6});", lambda found: html.unescape(found[0]), text)
    text = _TAG_POWER.sub(lambda f: f"{'^' if f[1].lower() == 'sup' else '_'}{{{f[2]}}}", text)
    return _TAGS.sub("", text)


def signs(text: str) -> str:
    """Unicode's mathematical signs, digits and letters in LaTeX or ASCII."""
    if text.isascii():
        return text
    text = _RUN.sub(_raised, text)
    text = "".join(_SIGNS.get(letter) if letter in _SIGNS else _sign(letter) for letter in text)
    return _ROOT.sub(lambda f: rf"\sqrt{_DEGREES[f[1]]}{{{f['inside'] or f['braced'] or f[2]}}}", text)


def _raised(found: re.Match) -> str:
    mark, letters = ("^", _SUPERSCRIPTS) if found[1] else ("_", _SUBSCRIPTS)
    return f"{mark}{{{''.join(letters[letter] for letter in found[0])}}}"


def _sign(letter: str) -> str:
    """One sign by its kind: decimal digits of any script, fractions such as ½, wide and mathematical letters."""
    if letter.isascii():
        return letter
    if unicodedata.category(letter) == "Nd":
        return str(unicodedata.decimal(letter))
    plain = unicodedata.normalize("NFKC", letter)
    if "⁄" in plain:
        above, _, below = plain.partition("⁄")
        return rf"\frac{{{above}}}{{{below or '1'}}}"
    known = unicodedata.name(letter, "").startswith(("MATHEMATICAL", "FULLWIDTH"))
    return _SIGNS.get(plain, plain) if known else letter


def spelled(text: str) -> str:
    """LaTeX with one spelling of each command."""
    for pattern, replacement in _SPELLINGS:
        text = pattern.sub(replacement, text)
    return text


def money(text: str) -> str:
    """Dollar signs that open no formula become CURRENCY: an odd last one, and one whose partner would enclose prose."""
    if "$" not in text:
        return text
    pieces = re.split(r"(\${1,2})", text)  # text, mark, text, mark, ...
    out, i = [pieces[0]], 1
    while i < len(pieces):
        mark, inside = pieces[i], pieces[i + 1]
        closed = i + 2 < len(pieces) and pieces[i + 2] == mark
        if closed and not is_prose(inside):
            out += [mark, inside, mark, pieces[i + 3]]
            i += 4
        else:
            out += [CURRENCY if mark == "$" and re.match(r"\s*-?[\d.]", inside) else mark, inside]
            i += 2
    return "".join(out)


def is_prose(text: str) -> bool:
    """Whether plain words stand in a text, beside commands and names of functions."""
    words = _PROSE.findall(_COMMAND_WITH_WORDS.sub(" ", text))
    return any(word.lower() not in _FUNCTIONS for word in words)
