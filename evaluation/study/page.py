"""The page of a study: plots, what a person wrote about them, tables, how it was measured, and the plan's history."""

import hashlib
import re
import subprocess
from dataclasses import asdict
from pathlib import Path

from cd4lm.config import require
from cd4lm.io import ROOT, write_json, write_text
from evaluation.study import plots, tables
from evaluation.study.analysis import LEAST_SEEDS, Analysis
from evaluation.study.settings import StudyConfig
from evaluation.study.work import all_cells

PAGE = Path(__file__).with_name("page.md")


def history_of(plan: str) -> str:
    """Every commit that changed the plan, oldest first, and what it changed after the first."""
    words = ["git", "log", "--follow", "--reverse", "--format=%x00%h %cs %s", "-p", "--unified=0", "--", plan]
    try:
        said = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "not known: this is no git checkout"
    entries = []
    for i, commit in enumerate(said.split("\0")[1:]):
        head, *diff = commit.splitlines()
        entries.append(f"- {head}" + ("" if i else " (first version)"))
        lines = [line for line in diff if line[:1] in ("+", "-") and line[:3] not in ("+++", "---")]
        entries += [f"  - `{line[:160].replace('`', chr(39))}`" for line in lines if i]
    return "\n".join(entries) or "not committed yet"


def written(study: StudyConfig, file: str | None, found: dict) -> str:
    """What a person wrote for the page. Raises ValueError where it points at a row that the tables do not have."""
    if file is None:
        return ""
    text = Path(file).read_text().strip()
    rows = {row["id"] for row in found["contrasts"]} | {f"{row['world']}/{row['arm']}" for row in found["arms"]}
    named = set(re.findall(rf"`(Q\d+\.\w+|(?:{'|'.join(study.worlds)})/\w+)`", text))
    require(named <= rows, f"{file} points at {', '.join(sorted(named - rows))}, which no table has: correct it")
    return text


def write_page(study: StudyConfig, plan: str) -> Path:
    """Write the page, its plots and results.json. Raises ValueError as long as no teacher is measured."""
    analysis = Analysis(study)
    require(bool(analysis.terms), "no world's teacher is measured yet: run the study first")
    found, page = analysis.everything(), Path(study.report)
    folder = page.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    first = plots.main_world(analysis)
    plots.plot_gains(analysis, found["contrasts"], folder / "gains.png")
    plots.plot_envelopes(analysis, folder / "envelopes.png")
    plots.plot_mechanism(found["arms"], study, folder / "mechanism.png")
    plots.plot_calibration(analysis, first, folder / "calibration.png")
    plots.plot_nfe(analysis, first, folder / "nfe.png")
    write_json(folder / "results.json", found, indent=None)
    write_text(page, text_of(study, plan, analysis, found))
    return page


def text_of(study: StudyConfig, plan: str, analysis: Analysis, found: dict) -> str:
    """The page's Markdown."""
    stored = sum(len(records) for records in analysis.records.values())
    judged = len(study.worlds) + sum(len(study.seeds(*pair)) for pair in study.pairs())
    state = f"{stored} of {judged} students and teachers are judged (`python scripts/study.py {plan}`; {all_cells(study)[1]} cells with tuning)."
    state += "" if stored == judged else " **The study is not finished: what is missing has no row.**"
    worlds = [
        {"world": world, "bits": bits, "teacher": 100 - wrong, "end": end, **asdict(analysis.terms[world])}
        for world, (bits, wrong, end) in plots.dials(analysis).items()
    ]
    devices = {r.content["provenance"]["device"] for own in analysis.records.values() for r in own}
    return PAGE.read_text(encoding="utf-8").format(
        state=state,
        folder=Path(study.report).with_suffix("").name,
        findings=written(study, study.findings, found) or "*No findings are written yet.*",
        limits=written(study, study.limits, found),
        least=LEAST_SEEDS,
        contrasts=tables.contrast_table(study, found["contrasts"]),
        arms=tables.arm_table(study, found["arms"]),
        mechanism=tables.mechanism_table(study, found["arms"]),
        worlds=tables.world_table(worlds),
        tuning=tables.tuning_table(found["tuning"]),
        decoders=", ".join(next(iter(analysis.records.values()))[0].validation),
        validation=study.validation,
        test=study.test,
        margin=100 * study.margin,
        share=study.budget_share,
        dtype=study.dtype,
        devices="; ".join(sorted(devices)),
        records=study.records,
        plan=plan,
        digest=hashlib.sha256((ROOT / plan).read_bytes()).hexdigest(),
        history=history_of(plan),
    )
