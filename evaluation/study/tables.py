"""The tables of the results page."""

from evaluation.study.results import Results
from evaluation.study.settings import StudyConfig
from evaluation.study.text import TOLD, measure_name, p_text, percent, points, span


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(head)} |", "|" + "---|" * len(head), *(f"| {' | '.join(row)} |" for row in rows)]


def contrast_table(study: StudyConfig, analysis: dict, main: bool) -> list[str]:
    """Planned contrasts, main or exploratory; the question is what the plan asked, not what was found."""
    head = ["row", "question", "a", "b", "measure", "a [95 %]", "b [95 %]", "a - b [95 %]", "by seed", "p"]
    head += ["p, Holm"] if main else []
    head += ["McNemar at the headline"]
    rows = []
    for row in (r for r in analysis["contrasts"] if r["main"] == main):
        value, difference = TOLD[row["measure"]]
        unit = 100 if difference is points or value is percent else 1
        seeds = ", ".join("–" if d is None else f"{unit * d:+.2f}" for d in row["by_seed"])
        line = [
            row["id"],
            row["claim"],
            study.label(row["a"]),
            study.label(row["b"]),
            measure_name(study, row["measure"]),
        ]
        line += [value(row["value_a"]), value(row["value_b"]), difference(row["difference"]), seeds, p_text(row["p"])]
        line += [p_text(row["p_holm"])] if main else []
        rows.append([*line, ", ".join(map(p_text, row["mcnemar"]))])
    return table(head, rows)


def variant_table(study: StudyConfig, analysis: dict) -> list[str]:
    head = ["variant", "seeds", "problems", f"accuracy, CAD {study.headline:g}, %", "NFE", "tokens per forward"]
    head += ["NFE at equal accuracy, CAD", "the same, fixed steps", measure_name(study, "accuracy_at_nfe")]
    head += [f"CAD against {study.fixed_steps[0]} fixed steps at their NFE"]
    rows = [
        [
            study.label(name),
            str(len(row["seeds"]) or "–"),
            str(row["problems"]),
            percent(row["headline_accuracy"]),
            span(row["headline_nfe"]),
            span(row["tokens_per_forward"], 2),
            span(row["nfe"]),
            span(row["nfe_fixed"]),
            percent(row["accuracy_at_nfe"]),
            points(row["cad_against_fixed"]),
        ]
        for name, row in analysis["variants"].items()
    ]
    return table(head, rows)


def calibration_table(study: StudyConfig, analysis: dict) -> list[str]:
    head = ["variant", *(f"wrong of those ≥ {tau:g}, %" for tau in study.thresholds)]
    head += [f"confident and wrong, of all, at {study.headline:g}, %", f"confident, at {study.headline:g}, %"]
    rows = []
    for name, row in analysis["variants"].items():
        at = {str(tau): found for tau, found in row["calibration"].items()}
        headline = at[str(study.headline)]
        errors = [percent(at[str(tau)]["error"], 2) for tau in study.thresholds]
        rows.append(
            [study.label(name), *errors, percent(headline["confident_wrong"], 2), percent(headline["confident"])]
        )
    return table(head, rows)


def memory_table(study: StudyConfig, analysis: dict) -> list[str]:
    head = ["variant", measure_name(study, "nll"), measure_name(study, "wordings")]
    head += ["states with the teacher's tokens, %", "states on the teacher's path, %"]
    rows = [
        [study.label(n), span(r["nll"], 2), span(r["wordings"], 2), percent(r["same_tokens"]), percent(r["on_path"])]
        for n, r in analysis["variants"].items()
    ]
    return table(head, rows)


def transfer_table(study: StudyConfig, analysis: dict) -> list[str]:
    shapes = list(next(iter(analysis["variants"].values()))["transfer"])
    rows = []
    for name, row in analysis["variants"].items():
        found = [row["transfer"][shape] for shape in shapes]
        first = f"{percent(found[0]['accuracy'])} at {span(found[0]['nfe'])}"
        others = [f"{percent(f['accuracy'])} at {span(f['nfe'])}; {points(f['change'])}" for f in found[1:]]
        rows.append([study.label(name), first, *others])
    return table(["variant", *(f"{shape}: % at NFE" for shape in shapes)], rows)


def timing_table(study: StudyConfig, timing: dict) -> list[str]:
    rows = []
    for name, run in timing["runs"].items():
        variant, _, decoder = name.partition(" ")
        latency = f"{1000 * run['latency_median']:.0f}"
        rows.append([study.label(variant), decoder, latency, f"{run['tokens_per_second']:.0f}"])
    return table(["variant", "decoder", "median latency at batch 1, ms", "tokens/s before EOS"], rows)


def cell_table(results: Results) -> list[str]:
    """One line per cell and decoder."""
    head = ["cell", "decoder", "problems", "accuracy, % [95 %]", "NFE", "tokens per forward", "commit"]
    rows = []
    for cell, measures in results.measures.items():
        record = measures["frontier"]
        for name, decoder in record["decoders"].items():
            low, high = (100 * bound for bound in decoder["accuracy_95"])
            accuracy = f"{100 * decoder['accuracy']:.1f} [{low:.1f}, {high:.1f}]"
            count, commit = str(len(decoder["problems"]["right"])), f"`{record['provenance']['commit'][:7]}`"
            numbers = [f"{decoder['nfe']:.1f}", f"{decoder['tokens_per_forward']:.2f}"]
            rows.append([cell.name, name, count, accuracy, *numbers, commit])
    return table(head, rows)
