"""Every command of README and the guides is one that its program understands, and every link leads somewhere."""

import argparse
import json
import re
import runpy
import shlex
import sys
from unittest import mock

import pytest
import tomllib

from cd4lm.config import load
from cd4lm.settings import ExperimentConfig
from cd4lm.training.pretrain import PretrainConfig
from evaluation.study.settings import StudyConfig
from tests.conftest import ROOT

PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "evaluation/README.md", ROOT / "checkpoints/README.md"]
)
CONFIGS = {"scripts/study.py": StudyConfig, "cd4lm.training.pretrain": PretrainConfig}  # others take an experiment
FOREIGN = {"pip", "pytest", "ruff", "apt", "vllm", "curl", "lm_eval"}  # programs that are not this repository's
VARIABLE = re.compile(r"[A-Z_]+=")


class Understood(BaseException):
    """Raised in place of a command's work, with what its parser made of its words."""


def commands_of(text: str) -> list[str]:
    """The commands of a page: its bash blocks, and code inside sentences that begins as a command with arguments does.

    Those that are shown with the error they give are left out.
    """
    text = re.sub(r"```bash\n[^`]*```\n```\nerror: [^`]*```", "", text)
    blocks = "".join(re.findall(r"```bash\n(.*?)```", text, re.S)).replace("\\\n", " ")
    variable = r"""[A-Z_]+=(?:"[^"`]*"|[^`\s"]+) """
    begins = rf"`((?:{variable})*(?:bash [^`\s]+|python (?:-m [^`\s]+|(?!-m )[^`\s]+) |torchrun )[^`]*)`"
    inline = re.findall(begins, re.sub(r"```.*?```", "", text, flags=re.S))
    lines = [line for line in [*blocks.splitlines(), *inline] if line.strip() and not line.lstrip().startswith("#")]
    return [part.strip() for line in lines for part in re.split(r" && |; (?=done)| \| ", line)]


def all_commands() -> list:
    found = {}
    for page in PAGES:
        for line in commands_of(page.read_text(encoding="utf-8")):
            found.setdefault(line, page.relative_to(ROOT))
    return [pytest.param(line, id=f"{page}: {line[:60]}") for line, page in found.items()]


def understood(program: str, words: list[str], module: bool) -> argparse.Namespace:
    """What a Python program's parser makes of its words; its work is not begun."""
    outermost = [True]  # a parser's methods call each other; what the program called is the one that answers

    def once(parse):
        def call(self, *args, **how):
            if not outermost[0]:
                return parse(self, *args, **how)
            outermost[0] = False
            found = parse(self, *args, **how)
            namespace, rest = found if isinstance(found, tuple) else (found, [])
            assert not rest, f"{program} does not know {rest}"
            raise Understood(namespace)

        return call

    names = ("parse_args", "parse_known_args", "parse_intermixed_args", "parse_known_intermixed_args")
    patches = {name: once(vars(argparse.ArgumentParser)[name]) for name in names}
    with mock.patch.multiple(argparse.ArgumentParser, **patches), mock.patch.object(sys, "argv", [program, *words]):
        try:
            runpy.run_module(program, run_name="__main__") if module else runpy.run_path(program, run_name="__main__")
        except Understood as end:
            return end.args[0]
        except SystemExit as stop:
            if "is missing: pip install" in str(stop.code):
                pytest.skip(str(stop.code))
            raise AssertionError(f"{program}: {stop.code}") from stop
    raise AssertionError(f"{program} never read its arguments")


def check_python(words: list[str]) -> None:
    module = words[0] == "-m"
    program, rest = (words[1], words[2:]) if module else (words[0], words[1:])
    if program.partition(".")[0] in FOREIGN:
        return
    rest = [word for word in rest if word not in ("[--protocol", "published]")]
    found = understood(program, rest, module)
    if "overrides" in vars(found) and "config" in vars(found):
        load(CONFIGS.get(program, ExperimentConfig), found.config, found.overrides)


def check_shell(file: str, words: list[str], variables: list[str]) -> None:
    text = (ROOT / file).read_text()
    if file.startswith("evaluation/scripts/"):
        text += (ROOT / "evaluation/scripts/common.sh").read_text()
    if file == "scripts/reproduce_paper.sh":
        text += (ROOT / "scripts/reproduce_paper.py").read_text()
    if file == "run_training.sh":
        text += "NUM_PROCESSES"
    for variable in variables:
        assert variable in text, f"{file} does not read {variable}"
    if file in ("run_training.sh", "scripts/slurm_4x8.sh"):
        config = words.pop(0) if words and "=" not in words[0] else "configs/tiny.yaml"
        load(ExperimentConfig, config, words)


@pytest.mark.slow
@pytest.mark.parametrize("line", all_commands())
def test_commands(line, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = shlex.split(line, comments=True)
    variables = []
    while words and VARIABLE.match(words[0]):
        variables.append(words.pop(0).partition("=")[0])
    program, *rest = words
    if program == "python":
        check_python(rest)
    elif program in ("bash", "sbatch"):
        check_shell(rest[0], rest[1:], variables)
    elif program == "source":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        assert (ROOT / rest[0]).is_file() and set(rest[1:]) <= extras.keys()
    elif program == "torchrun":
        target = next(i for i, word in enumerate(rest) if word == "-m" or word.endswith(".py"))
        if rest[-1] != "...":
            check_python(rest[target:])
        assert rest[target] == "-m" or (ROOT / rest[target]).is_file()
    else:
        assert program in FOREIGN | {"printf", "for", "cat"}, f"nobody knows {program}"


def test_links():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if "://" in target:
                continue
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"


def test_readme_is_two_screens():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 100 and max(map(len, lines)) <= 200


def test_the_table_of_readme_is_the_studys():
    """Every row of README's table has the numbers that the study's program wrote, and enough seeds for a verdict."""
    study = load(StudyConfig, ROOT / "configs/evidence.yaml")
    arms = json.loads((ROOT / "docs/results/results.json").read_text())["arms"]
    found = {study.label(row["arm"]): row for row in arms if row["world"] == "w8"}
    _, _, table = (ROOT / "README.md").read_text().partition("| model | seeds |")
    lines = table.partition("\n\n")[0].splitlines()[2:]
    assert len(lines) >= 7
    for line in lines:
        label, seeds, right, passes, published = (cell.strip() for cell in line.strip("|").split("|"))
        row, accuracy = found[label], found[label]["accuracy"]
        assert seeds == ("–" if label == "teacher" else str(len(row["seeds"]))) and (seeds == "–" or int(seeds) >= 5)
        assert right == "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * accuracy[k] for k in ("value", "low", "high")))
        (published_accuracy, published_nfe) = row["reported"]["cad, confidence_threshold=0.95"]
        assert passes == f"{row['spent']:.1f}" and published == f"{100 * published_accuracy:.1f} / {published_nfe:.1f}"


def test_commands_are_found():
    text = "Try `MODEL=x python a.py --b` or `not one`, `python a.py`.\n```bash\npython bad.py\n```\n```\nerror: no\n```\n```bash\nA=1 bash x.sh \\\n  c   # why\nsource e && python f.py\n```\n"
    assert commands_of(text) == ["A=1 bash x.sh    c   # why", "source e", "python f.py", "MODEL=x python a.py --b"]


def test_the_figures_of_gsm8k_with_new_numbers_are_its_reports():
    """Accuracy with interval, and passes, of each row of the guide's table."""
    guide, report = ((ROOT / f"docs/{name}").read_text() for name in ("gsm8k_numbers.md", "gsm8k_numbers/report.md"))
    figures = set(re.findall(r"\| (\d+\.\d \[\d+\.\d, \d+\.\d\] \| \d+\.\d) \|", guide))
    assert len(figures) == 6 and all(f"| {row} |" in report for row in figures)


def test_what_the_study_says_of_the_other_one_is_on_its_page():
    paragraph = (ROOT / "docs/results/limits.md").read_text().partition("## On questions")[2].partition("## ")[0]
    found = json.loads((ROOT / "docs/gsm8k_numbers_results/results.json").read_text())
    teacher = next(row for row in found["arms"] if row["arm"] == "teacher")
    lost = next(row["difference"] for row in found["contrasts"] if row["id"] == "Q2.numbers")
    points, low, high = (-100 * lost[name] for name in ("value", "high", "low"))
    assert f"{100 * teacher['nfe_accuracy']:.1f} % right with {teacher['nfe']['value']:.1f}" in paragraph
    assert f"{points:.1f} points ({low:.1f} to {high:.1f})" in " ".join(paragraph.split())
