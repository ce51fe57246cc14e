r"""The shapes in which a right answer must be accepted, and what must be refused: for the golds of MATH500 and GSM8K."""

import re
from collections.abc import Callable

STEPS = "First we count 3 and 4, so we have 7 of them."
# Around any gold answer in LaTeX (@).
SHAPES = {
    "box": r"\boxed{@}",
    "box in formula": STEPS + r" Hence $\boxed{@}$.",
    "box in display": STEPS + "\n" + r"\[ \boxed{@} \]",
    "fbox": r"\fbox{@}",
    "box with lines": "\\boxed{\n@\n}",
    "box with dollars": r"\boxed{$@$}",
    "box with bold": r"\boxed{**@**}",
    "box with words": r"\boxed{\text{Answer: } @}",
    "box after an earlier one": r"Is it \boxed{99}? No. It is \boxed{@}.",
    "box with text after it": r"\boxed{@} This took 3 steps.",
    "box after thoughts": r"<think>maybe \boxed{99}</think> So \boxed{@}",
    "the trained form": "<reasoning>\n" + STEPS + "\n</reasoning>\n<answer>\n\\boxed{@}\n</answer>",
    "section not closed": r"<answer>\boxed{@}",
    "box before the end mark": r"\boxed{@}<|eot_id|>\boxed{99}",
    "section": "<answer>@</answer>",
    "section with dollars": "<answer>\n$@$\n</answer>",
    "section with parentheses": r"<answer>\( @ \)</answer>",
    "section with display": "<answer>\n\\[ @ \\]\n</answer>",
    "section with double dollars": "<answer>$$\n@\n$$</answer>",
    "section in bold": "<answer>**@**</answer>",
    "section in bold formula": "<answer>**$@$**</answer>",
    "section as code": "<answer>`@`</answer>",
    "section as list": "<answer>\n- $@$\n</answer>",
    "section with a sentence": "<answer>The answer is $@$.</answer>",
    "section with a bare sentence": "<answer>The answer is @.</answer>",
    "sentence": STEPS + " The final answer is $@$.",
    "sentence with display": STEPS + " Therefore, the answer is\n\\[\n@\n\\]",
    "label in bold": STEPS + "\n\n**Answer:** $@$",
    "label on a line": STEPS + "\n\n**Final Answer**\n\n$@$",
    "heading": STEPS + "\n#### $@$",
    "heading, then answer": STEPS + "\n### Final answer\n\n\\(@\\)",
    "quotation": STEPS + "\n\nAnswer:\n\n> $@$",
    "HTML": "<answer><b>@</b></answer>",
    "environment": r"<answer>\begin{align*} @ \end{align*}</answer>",
    "formula alone": "$@$",
}
_UNICODE = {
    r"\pi": "π",
    r"\infty": "∞",
    r"\pm": "±",
    r"\cup": "∪",
    r"\in ": "∈ ",
    r"^\circ": "°",
    "-": "−",
    r"\frac{1}{2}": "½",
}


def in_unicode(gold: str) -> str:
    """A gold answer with Unicode's signs where it has LaTeX's."""
    for latex, sign in _UNICODE.items():
        gold = gold.replace(latex, sign)
    gold = re.sub(r"\\sqrt\{(\d+)\}", r"√\1", gold)
    return re.sub(r"\^(\d)", lambda found: "⁰¹²³⁴⁵⁶⁷⁸⁹"[int(found[1])], gold)


# Other spellings of a gold answer, in a box.
SPELLINGS: dict[str, Callable[[str], str]] = {
    "line breaks for spaces": lambda gold: gold.replace(" ", "\n"),
    "Unicode": in_unicode,
    "display style": lambda gold: r"\displaystyle " + gold.replace(r"\frac{", r"\dfrac{"),
    "brackets that grow": lambda gold: gold.replace(r"\left", "").replace(r"\right", "").replace("(", r"\left(").replace(")", r"\right)"),
    "thin spaces": lambda gold: r"\," + gold + r"\;",
}  # fmt: skip
# Other spellings of a whole number.
NUMBERS: dict[str, Callable[[str], str]] = {
    "thousands": lambda n: f"{int(n):,}",
    "thousands in LaTeX": lambda n: f"{int(n):,}".replace(",", "{,}"),
    "thousands with spaces": lambda n: f"{int(n):,}".replace(",", r"\,"),
    "cents": lambda n: f"{n}.00",
    "dollars": lambda n: rf"\${n}",
    "dollars as typed": lambda n: f"${n}",
    "dollars and cents": lambda n: rf"\${int(n):,}.00",
    "words": lambda n: rf"{n} \text{{ dollars}}",
    "square units": lambda n: rf"{n} \text{{ ft}}^2",
    "per": lambda n: rf"{n} \text{{ miles per hour}}",
    "name": lambda n: f"x = {n}",
    "calculation": lambda n: rf"{int(n) - 3} + 3 = {n}",
    "scientific": lambda n: rf"{int(n) / 10} \times 10^1",
    "Arabic digits": lambda n: n.translate(str.maketrans("0123456789-", "٠١٢٣٤٥٦٧٨٩−")),
    "wide digits": lambda n: n.translate(str.maketrans("0123456789", "０１２３４５６７８９")),
    "fraction": lambda n: rf"\frac{{{2 * int(n)}}}{{2}}",
}


def right_answers(task: str, gold: str) -> dict[str, str]:
    """A response per shape that holds a gold answer (of GSM8K: a whole number as digits)."""
    found = {name: shape.replace("@", gold) for name, shape in SHAPES.items()}
    found |= {f"box, {name}": rf"\boxed{{{spell(gold)}}}" for name, spell in SPELLINGS.items()}
    if task == "gsm8k":
        found |= {f"number, {name}": rf"\boxed{{{spell(gold)}}}" for name, spell in NUMBERS.items()}
        found["sentence without a cue"] = f"{STEPS} She makes ${gold} every day."
        found["calculation without a cue"] = f"{STEPS}\n{int(gold) - 2} + 2 = {gold} dollars"
    return found


def wrong_answers(task: str, gold: str) -> dict[str, str]:
    """A response per kind of mistake, none of which is equal to the gold answer."""
    answers = number_mistakes(gold) if re.fullmatch(r"-?\d+(\.\d+)?", gold) else formula_mistakes(gold)
    found = {name: rf"\boxed{{{answer}}}" for name, answer in answers.items() if answer != gold}
    found["in an exponent"] = (
        rf"\boxed{{99 \text{{ ft}}^{{{gold}}}}}" if gold.isdigit() else f"The answer is 99, from {gold}."
    )
    found["in the reasoning"] = f"With ${gold}$ in step 1 we get: the answer is 1234567."
    found["denied"] = f"The answer is not ${gold}$."
    found["before an empty section"] = rf"\boxed{{{gold}}} <answer></answer>"
    return found


def number_mistakes(gold: str) -> dict[str, str]:
    whole = gold.partition(".")[0]
    return {
        "last digit": gold[:-1] + str((int(gold[-1]) + 1) % 10),
        "first digit": re.sub(r"\d", lambda found: str(int(found[0]) % 9 + 1 if found[0] != "9" else 1), gold, count=1),
        "sign": gold[1:] if gold.startswith("-") else f"-{gold}" if float(gold) else "-1",
        "times ten": "10"
        if gold == "0"
        else f"{gold}0"
        if "." not in gold
        else gold.replace("0.", ".").replace(".", "7."),
        "exponent": rf"({gold})^{{2}}" if gold not in ("0", "1") else "2^2",
        "base": f"{gold}_8" if "." not in gold else f"{whole}_8",
        "near": f"{whole}.5" if "." not in gold else f"{gold}1",
        "root": rf"{gold}\sqrt{{2}}" if float(gold) else r"\sqrt{2}",
        "list": f"{gold}, 1234567",
        "variable": f"{gold}x" if float(gold) else "x",
        "interval": f"[{gold}, 1234567]",
    }


def formula_mistakes(gold: str) -> dict[str, str]:
    """Mistakes of formulas, words, choices, intervals and matrices."""
    if found := re.fullmatch(r"\\text\{(.*)\}", gold):
        letter = re.fullmatch(r"\((.)\)", found[1])
        others = [f"({other})" for other in "ABCDEF" if letter and other != letter[1]] or [
            "odd",
            "Carla",
            "west",
            "circle",
        ]
        return {
            f"word {i}": rf"\text{{{word}}}"
            for i, word in enumerate([*others, f"not {found[1]}", f"{found[1]} or {others[0]}"])
        }
    digits = [found.start() for found in re.finditer(r"(?<!\^)\d", gold)]
    mistakes = {
        f"digit {i}": gold[:at] + changed(gold[at]) + gold[at + 1 :] for i, at in enumerate(digits[:2] + digits[-1:])
    }
    mistakes["sign"] = with_other_sign(gold)
    mistakes["list"] = gold + ", 1234567"
    mistakes["denominator"] = (
        re.sub(r"\\frac", r"\\frac{1}{7}\\frac", gold, count=1) if r"\frac" in gold else f"7 + {gold}"
    )
    mistakes["exponent"] = (
        re.sub(r"\^(\d)", lambda f: f"^{changed(f[1])}", gold, count=1) if "^" in gold else f"{gold} + 7^2"
    )
    mistakes["text"] = r"\text{none of these}"
    if found := re.fullmatch(r"(.*_)\{?\d+\}?", gold):
        mistakes |= {"base": f"{found[1]}{{16}}", "base ten": f"{found[1]}{{10}}"}
    if re.fullmatch(r"(?:\\left)?\s*[(\[].*[)\]]", gold) and "," in gold and "cup" not in gold:
        inside = re.sub(r"\\left|\\right", "", gold)
        first, _, last = inside[1:-1].partition(",")
        mistakes["order"] = f"{inside[0]}{last},{first}{inside[-1]}"
        mistakes["bracket"] = ("[" if inside[0] == "(" else "(") + inside[1:]
        mistakes["an end is missing"] = first
    return mistakes


def changed(digit: str) -> str:
    """Another digit, never 0, that makes no equal fraction of the benchmarks' small numbers."""
    return {"9": "7", "0": "3"}.get(digit, str(int(digit) + 1))


def with_other_sign(gold: str) -> str:
    """A gold answer with its first sign turned over, behind what stands before the value."""
    start = re.match(
        r"(?:[xy]\s*(?:=|\\in)\s*)?(?:\\left)?\s*(?:\\begin\{pmatrix\}|\\\{|[(\[])?\s*(?:\\\$)?", gold
    ).end()
    head, rest = gold[:start], gold[start:]
    if rest.startswith("0"):
        return head + "1" + rest
    return head + (rest[1:] if rest.startswith("-") else f"-{rest}")
