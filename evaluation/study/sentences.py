"""The first page's sentences, and what becomes of the published claims; both follow the numbers."""

from evaluation.study.settings import TEACHER, StudyConfig
from evaluation.study.text import cell_command, contrast_sentence, p_phrase, points, relation, span


def cad_sentence(study: StudyConfig, analysis: dict, config: str) -> str:
    """What CAD does for a model that was not trained for it."""
    cad = analysis["cad"]
    equal = cad["fewer_at_equal_accuracy"]
    if equal["value"] is None:
        gain = "CAD does not reach the accuracy of one token per step less the margin"
    else:
        word = "fewer" if (equal["low"] or 0) > 1 else "not measurably fewer"
        gain = f"at equal accuracy CAD needs {span(equal, 2)} times {word} forward passes than one token per step"
    return (
        f"**What does CAD bring without training?** With the untrained teacher, {gain}; at threshold {study.headline:g} "
        f"the accuracy differs by {points(cad['accuracy_difference'])} (McNemar {p_phrase(cad['mcnemar'])}) with "
        f"{span(cad['fewer_at_headline'], 2)} times fewer. {fixed_sentence(study, analysis)} Table of variants, row "
        f"{study.label(TEACHER)}; `{cell_command(config, study, TEACHER)}`"
    )


def fixed_sentence(study: StudyConfig, analysis: dict) -> str:
    """CAD against a fixed budget of the same cost, of the teacher and counted over the students."""
    rows = {name: row["cad_against_fixed"] for name, row in analysis["variants"].items()}
    teacher = rows.pop(TEACHER)
    better, worse = (sum(row["sign"] == sign for row in rows.values()) for sign in (1, -1))
    return (
        f"Against {study.fixed_steps[0]} fixed steps at the same cost CAD's accuracy differs by {points(teacher)} for the "
        f"teacher; of {len(rows)} kinds of students CAD is better for {better} and worse for {worse}."
    )


def page_sentences(study: StudyConfig, analysis: dict, config: str) -> list[str]:
    """One sentence for CAD and one for every question of the page."""
    rows = {f"{row['a']}/{row['b']}/{row['measure']}": row for row in analysis["contrasts"]}
    lines = [cad_sentence(study, analysis, config)]
    for question, keys in study.page.items():
        found = [rows[key] for key in keys if key in rows]
        told = "; ".join(contrast_sentence(study, row) for row in found)
        told = told[:1].upper() + told[1:] if told else "Not measured: its cells are not there yet"
        command = f" `{cell_command(config, study, found[0]['a'])}`" if found else ""
        lines.append(f"**{question}** {told}.{command}")
    return lines


def judge(difference: dict, margin: float) -> str:
    """Whether "as accurate as" holds within a margin."""
    if difference["low"] > -margin:
        return "holds"
    return "does not hold" if difference["high"] < -margin else "is undecided"


def claims(study: StudyConfig, analysis: dict) -> list[str]:
    """The published claims that the study touches, each with what is found here."""
    rows = {f"{row['a']}/{row['b']}/{row['measure']}": row for row in analysis["contrasts"]}
    published = {row["variant"]: row for row in analysis["published"]}
    lines = []
    for variant, paper in (("dscd", "CD4LM"), ("cdlm", "CDLM")):
        if variant not in published:
            continue
        row = published[variant]
        lines.append(
            f"| {paper}: as accurate as one token per step, several times fewer forward passes | {judge(row['difference'], study.margin)} "
            f"| {points(row['difference'])} (margin {100 * study.margin:g}), {span(row['fewer'], 2)} times fewer, with "
            f"{study.label(variant)} and CAD {study.headline:g} |"
        )
    for key, claim in (
        ("dscd/teacher/accuracy_at_nfe", "CD4LM: the student, not CAD alone, makes decoding in few passes accurate"),
        ("dscd/lambda0/accuracy_at_nfe", "CD4LM: the gain comes from consistency with the teacher"),
    ):
        if key in rows:
            row, holds = rows[key], {"a": "holds", "b": "does not hold", "neither": "is not seen"}
            lines.append(f"| {claim} | {holds[row['verdict']]} | {points(row['difference'])}, row {row['id']} |")
    for key, claim in (
        ("cdlm_no_distillation/cdlm/accuracy_at_nfe", "CDLM: without distillation it collapses"),
        ("cdlm_no_consistency/cdlm/accuracy_at_nfe", "CDLM: the consistency loss adds to distillation"),
    ):
        if key in rows:
            row, holds = rows[key], {"b": "holds", "a": "does not hold", "neither": "is not seen"}
            lines.append(
                f"| {claim} | {holds[row['verdict']]} | {points(row['difference'])}, row {row['id']}: it {relation(row)} {study.label(row['b'])} |"
            )
    return lines
