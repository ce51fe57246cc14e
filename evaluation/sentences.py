"""Sentences that follow the numbers of an analysis, whichever way they fall."""


def span(e: dict, digits: int = 1) -> str:
    """A value with its interval, or a plain word where it does not exist."""
    if e["value"] is None:
        return "not reached"
    return f"{e['value']:.{digits}f} [{e['low']:.{digits}f}, {e['high']:.{digits}f}]"


def percent_span(e: dict) -> str:
    return f"{100 * e['value']:+.1f} points [{100 * e['low']:+.1f}, {100 * e['high']:+.1f}]"


def verdict(analysis: dict) -> list[str]:
    """What the numbers say, in sentences that follow the numbers, whichever way they fall."""
    others = [model for model in analysis["tests"] if model not in ("teacher", "student", "control")]
    lines = [model_sentence(analysis, model) for model in ("student", *others)]
    lines += [gain_sentence(analysis, model) for model in ("student", *others)]
    lines += decoder_sentence(analysis)
    if analysis["student_vs_control"]:
        lines.append(control_sentence(analysis["student_vs_control"], analysis["headline"]))
    return lines + cache_sentences(analysis)


def model_sentence(analysis: dict, model: str) -> str:
    test, tau = analysis["tests"][model], analysis["headline"]
    return (
        f"At threshold {tau:g}, fixed beforehand, {analysis['names'][model]} + CAD differs from the teacher at one token "
        f"per step by {percent_span(test['difference'])} in accuracy (exact McNemar p = {test['mcnemar_p']:.2g}) "
        f"with {span(test['fewer_nfe'], 2)} times fewer forward passes."
    )


def gain_sentence(analysis: dict, model: str) -> str:
    """What training adds to CAD: the ratio to teacher + CAD, not to one token per step."""
    gain, name = analysis["ratios"][f"teacher + CAD / {model} + CAD"], analysis["names"][model]
    if gain["value"] is None:
        return f"Equal accuracy is not reached by both teacher + CAD and {name} + CAD, so they have no ratio."
    word = "fewer" if gain["low"] > 1 else "more" if gain["high"] < 1 else "not measurably fewer"
    return (
        f"At equal accuracy {name} + CAD needs {word} forward passes than teacher + CAD: the ratio is {span(gain, 2)}. "
        "This, not the ratio to one token per step, is what training adds."
    )


def cache_sentences(analysis: dict) -> list[str]:
    """What the exact cache does to tokens and latency, and which cell is fastest; nothing where none was measured."""
    lines, tests = [], analysis["caches"]
    if tests:
        same = sum(test["same_tokens"] for test in tests)
        ratios = sorted((t["faster"]["value"], t) for t in tests if t["faster"]["value"] is not None)
        text = f"With the exact cache the tokens are those without it in {same} of {len(tests)} cells"
        if ratios:
            low, high = ratios[0][1], ratios[-1][1]
            text += (
                f"; latency at batch 1 changes by a factor between {span(low['faster'], 2)} ({low['model']}, "
                f"{low['decoder']}) and {span(high['faster'], 2)} ({high['model']}, {high['decoder']}), above 1 is faster"
            )
        lines.append(text + ".")
    best = analysis["fastest"]
    if best is not None:
        lines.append(
            f"Within the margin of the teacher's accuracy the lowest latency is that of {analysis['names'][best['model']]}, "
            f"{best['decoder']}: {span(best['faster_than_reference'], 2)} times faster than the teacher at one token per step."
        )
    return lines


def decoder_sentence(analysis: dict) -> list[str]:
    """Whether the student needs CAD at all, or a fixed budget would do; nothing where either misses the accuracy."""
    ratio, needed = analysis["ratios"]["student + fixed / student + CAD"], analysis["nfe_at_equal_accuracy"]
    if ratio["value"] is None:
        return []
    word = "fewer" if ratio["low"] > 1 else "more" if ratio["high"] < 1 else "neither measurably fewer nor more"
    return [
        f"At equal accuracy student + CAD needs {word} forward passes than student + fixed steps: "
        f"{span(needed['student + CAD'])} against {span(needed['student + fixed'])}."
    ]


def control_sentence(control: dict, tau: float) -> str:
    difference, fewer = control["accuracy_difference"], control["fewer_nfe"]
    better = difference["low"] > 0 or (difference["low"] > -0.01 and fewer["low"] > 1)
    worse = difference["high"] < 0 or (difference["high"] < 0.01 and fewer["high"] < 1)
    claim = "beats" if better and not worse else "loses to" if worse and not better else "does not clearly beat"
    return (
        f"DSCD {claim} plain fine-tuning on the same masks and answers (lambda = 0): {percent_span(difference)} in "
        f"accuracy (p = {control['mcnemar_p']:.2g}) at {span(fewer, 2)} times fewer forward passes, both with CAD {tau:g}."
    )
