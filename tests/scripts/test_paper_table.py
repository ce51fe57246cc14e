"""The paper's table from samples with known answers and costs."""

import json
import random

import pytest

from scripts import paper_table
from scripts.paper_table import PAPER, RUNS, benchmark, markdown, verdict

MANIFEST = {"commit": "c0", "device": "a GPU", "dtype": "bfloat16", "processes": 1, "settings": {"batch_size": 1}}


def write_run(folder, right: list[bool], cost: float = 1.0, task: str = "gsm8k", **manifest):
    """A finished run: document i takes cost * (10 + i % 7) forward passes and as many seconds."""
    lines = []
    for i, is_right in enumerate(right):
        nfe = cost * (10 + i % 7)
        measured = {"nfe": nfe, "tokens": 20, "seconds": nfe, "truncated": False}
        lines.append(json.dumps({"doc_id": i, "doc": {"n": i}, "response": "r", "right": is_right} | measured))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"samples_{task}.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "results.json").write_text(json.dumps({"manifest": MANIFEST | manifest}))


def first(share: float, n: int) -> list[bool]:
    return [i < round(share * n) for i in range(n)]


def write_all(folder, n: int = 400, task: str = "gsm8k", **changes) -> dict:
    """Every run of a benchmark, right on the first 70 % of documents at cost 1 unless `changes` says (share, cost)."""
    for name, form in RUNS.items():
        share, cost = changes.get(name, (0.7, 1.0))
        write_run(folder / form.format("0.95"), first(share, n), cost, task)
    return benchmark(task, folder, "0.95")


def figure(found: dict, name: str) -> dict:
    return next(f for f in found["figures"] if f["figure"].startswith(name))


@pytest.mark.parametrize("share,contains", [(0.774, True), (0.80, True), (0.60, False), (0.9, False)])
def test_an_accuracy_near_the_published_one_contains_it(tmp_path, share, contains):
    found = write_all(tmp_path, **{"teacher, fixed, full": (share, 1.0)})
    llada = figure(found, "LLaDA")
    assert llada["contains"] is contains and llada["low"] < llada["value"] < llada["high"]


def test_speed_ups_are_ratios_of_seconds_to_the_right_baseline(tmp_path):
    changes = {"teacher, fixed, full": (0.7, 10.0), "teacher, fixed": (0.7, 6.0), "teacher + CAD": (0.7, 3.0)}
    found = write_all(tmp_path, **changes | {"student + CAD": (0.7, 1.5), "student + CAD, full": (0.7, 2.0)})
    for name, wanted in (("whole", 5.0), ("stopping", 4.0), ("of the teacher", 2.0)):
        f = next(f for f in found["figures"] if name in f["figure"])
        assert (f["value"], f["low"], f["high"]) == pytest.approx((wanted,) * 3)
    assert found["control"]["fewer_nfe"]["value"] == pytest.approx(2.0)
    assert "no difference in accuracy can be told; it needs fewer" in found["control"]["says"]


def test_gain_and_control_are_paired(tmp_path):
    found = write_all(tmp_path, **{"student + CAD": (0.8, 1.0)})
    gain = figure(found, "gain")
    assert gain["value"] == pytest.approx(10) and gain["contains"] is False and gain["published"] == pytest.approx(0.2)
    # Paired over 400 documents of which a tenth differ: half as wide as two separate samples would give.
    assert 4 < gain["high"] - gain["low"] < 7
    assert found["control"]["accuracy_difference"]["low"] > 0 and found["control"]["only_reference_right"] == 0
    assert found["control"]["says"].startswith("the student is right more often")


def test_equal_runs_say_nothing(tmp_path):
    found = write_all(tmp_path)
    assert figure(found, "gain")["contains"] is None and found["control"]["mcnemar_p"] == 1.0
    assert found["control"]["says"] == "no difference in accuracy can be told, nor one in forward passes"
    assert "cannot be said: no document differs" in markdown(dict.fromkeys(PAPER) | {"gsm8k": found})


def test_the_order_of_the_documents_changes_nothing(tmp_path):
    found = write_all(tmp_path, **{"student + CAD": (0.72, 0.5)})
    for seed, form in enumerate(RUNS.values()):
        file = tmp_path / form.format("0.95") / "samples_gsm8k.jsonl"
        lines = file.read_text().splitlines()
        random.Random(seed).shuffle(lines)
        file.write_text("\n".join(lines) + "\n")
    assert benchmark("gsm8k", tmp_path, "0.95") == found


def interval(low: float, high: float) -> dict:
    return {"value": (low + high) / 2, "low": low, "high": high}


@pytest.mark.parametrize(
    "points,passes,says",
    [
        ((-0.03, -0.01), (2, 3), "the student is right less often; it needs fewer forward passes"),
        ((0.01, 0.02), (0.5, 0.9), "the student is right more often; it needs more forward passes"),
        ((-0.01, 0.02), (0.9, 1.1), "no difference in accuracy can be told, nor one in forward passes"),
    ],
)
def test_verdict(points, passes, says):
    assert verdict({"accuracy_difference": interval(*points), "fewer_nfe": interval(*passes)}) == says


def test_the_command_writes_every_row_and_says_what_limits_it(tmp_path, run_main):
    write_all(tmp_path / "eval/gsm8k", n=40)
    write_run(tmp_path / "eval/gsm8k/teacher_fixed", first(0.7, 40), settings={"batch_size": 8})
    message, out = run_main(paper_table.main, tmp_path)
    assert message is None
    text, saved = (tmp_path / "table.md").read_text(), json.loads((tmp_path / "table.json").read_text())
    assert text in out and saved["mbpp"] is None and saved["gsm8k"]["documents"] == 40
    for paper in PAPER.values():
        assert f"| {paper.title} |" in text and str(paper.speedup) in text
    assert text.count("| not run | |") == 3 and "only its first 40 documents" in text
    assert "not all made alike" in text and "published speed-ups are of batch 1" in text


def test_what_is_missing_is_named(tmp_path, refused):
    refused(paper_table.main, "holds none of gsm8k", tmp_path)
    write_all(tmp_path / "eval/gsm8k", n=20)
    refused(paper_table.main, "cad_0.9/results.json does not exist", tmp_path, "--threshold", "0.9")
    write_run(tmp_path / "eval/gsm8k/cad_0.95", first(0.7, 19))
    refused(paper_table.main, "doc_id 19 is missing", tmp_path)
    (tmp_path / "eval/gsm8k/teacher_fixed/results.json").unlink()
    refused(paper_table.main, "teacher_fixed/results.json does not exist", tmp_path)
