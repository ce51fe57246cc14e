"""The report command on folders of runs, as a user types it."""

import json

from evaluation import report
from evaluation.report import spaced_ticks
from tests.evaluation.test_compare import random_run


def write(folder, **runs) -> None:
    for name, run in runs.items():
        run.write(folder / name)


def test_tables_plot_and_json_of_a_folder_of_runs(tmp_path, run_main):
    write(
        tmp_path / "runs",
        fixed=random_run("fixed", 0.9, 40, steps=40),
        cad=random_run("cad | 0.9", 0.9, 20),
        loose=random_run("cad 0.5", 0.8, 10, confidence_threshold=0.5),
    )
    words = (tmp_path / "runs", "--reference", "fixed", "--output_path", tmp_path / "out")
    message, printed = run_main(report.main, *words)
    assert message is None
    text = (tmp_path / "out/report.md").read_text()
    assert text in printed and "| cad 0.5 |" in text and "| m + cad |" in text and "against fixed" in text
    compared = json.loads((tmp_path / "out/comparison.json").read_text())
    assert compared["reference"] == "fixed" and set(compared["against_reference"]) == {"cad | 0.9", "cad 0.5"}
    assert (tmp_path / "out/frontier.png").stat().st_size > 10_000
    rows = [line.replace("\\|", "").count("|") for line in text.splitlines() if line.startswith("| cad")]
    assert rows == [10, 10, 6, 6]  # a bar in a run's name breaks no table


def test_mistakes_are_one_line(tmp_path, refused):
    refused(report.main, "nowhere is not a folder", tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    refused(report.main, "holds no finished run", tmp_path / "empty")
    write(tmp_path, a=random_run("a", 0.9, 10), b=random_run("b", 0.9, 10, n=200))
    refused(report.main, "document 200 is missing from b", tmp_path / "a", tmp_path / "b")
    refused(report.main, "no run is called c: use one of a", tmp_path / "a", "--reference", "c")
    refused(report.main, "--margin 2.0 must lie in [0, 1)", tmp_path / "a", "--margin", "2")
    (tmp_path / "a/documents.jsonl").write_text('{"id": 0}\n{broken\n')
    refused(report.main, "documents.jsonl line 2 is not valid JSON", tmp_path / "a")


def test_ticks_do_not_crowd():
    assert spaced_ticks([10.0, 10.5, 20.0, 12.0])[1] == ["10.0", "12.0", "20.0"]
