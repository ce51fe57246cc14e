"""The paper's table from samples with known answers and costs."""

import random

import pytest

from cd4lm.decoding import DecodingOptions
from cd4lm.model import LLaDAConfig
from evaluation.run import Run
from scripts import paper_table
from scripts.paper_table import PAPER, RUNS, benchmark, markdown, runs_of

MODEL = LLaDAConfig(vocab_size=10, mask_token_id=9)
WHERE = {"device": "a GPU", "commit": "c0"}


def write_run(folder, role: str, right: list[bool], cost: float = 1.0, task: str = "gsm8k", batch: int = 1, tau=0.95):
    """A finished run: document i takes cost * (10 + i % 7) forward passes and as many seconds."""
    whose, policy, stop = RUNS[role]
    options = {"confidence_threshold": tau} if policy == "cad" else {"policy": "fixed"}
    decoder = DecodingOptions(stop_at_eos=stop, **options).decoder(MODEL, (7,))
    documents = []
    for i, is_right in enumerate(right):
        nfe = cost * (10 + i % 7)
        verdict = {"right": is_right, "outcome": "right" if is_right else "wrong"}
        costs = {
            "nfe": nfe,
            "tokens": 20,
            "seconds": nfe,
            "truncated": False,
            "clock": i + 1.0,
            "rank": 0,
            "session": 1,
        }
        documents.append({"id": i, "doc": {"n": i}, "response": "r"} | verdict | costs)
    weights = folder / "gsm8k/student" if whose == "student" else folder.parent / "teacher"
    about = {"name": role, "task": task, "model": {"name": whose, "folder": str(weights), "dtype": "bfloat16"}}
    about |= {"decoder": decoder.about(), "settings": {"batch_size": batch}, "processes": 1, "provenance": WHERE}
    Run(about, documents).write(folder / "eval" / task / role.replace(" ", "_"))


def first(share: float, n: int) -> list[bool]:
    return [i < round(share * n) for i in range(n)]


def write_all(folder, n: int = 400, task: str = "gsm8k", **changes) -> dict:
    """Every run of a benchmark, right on the first 70 % of documents at cost 1 unless `changes` says (share, cost)."""
    for role in RUNS:
        share, cost = changes.get(role, (0.7, 1.0))
        write_run(folder, role, first(share, n), cost, task)
    return benchmark(task, runs_of(folder, 0.95)[task])


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


def test_gain_and_control_are_paired(tmp_path):
    found = write_all(tmp_path, **{"student + CAD": (0.8, 1.0)})
    gain = figure(found, "gain")
    assert gain["value"] == pytest.approx(10) and gain["contains"] is False and gain["published"] == pytest.approx(0.2)
    # Paired over 400 documents of which a tenth differ: half as wide as two separate samples would give.
    assert 4 < gain["high"] - gain["low"] < 7
    assert found["control"]["accuracy_difference"]["low"] > 0 and found["control"]["only_reference_right"] == 0


def test_equal_runs_say_nothing(tmp_path):
    found = write_all(tmp_path)
    assert figure(found, "gain")["contains"] is None and found["control"]["mcnemar_p"] == 1.0
    assert "no document differs" in markdown(dict.fromkeys(PAPER) | {"gsm8k": found})


def test_the_order_of_the_documents_changes_nothing(tmp_path):
    found = write_all(tmp_path, **{"student + CAD": (0.72, 0.5)})
    runs = runs_of(tmp_path, 0.95)["gsm8k"]
    shuffled = {}
    for seed, (role, run) in enumerate(runs.items()):
        documents = list(run.documents)
        random.Random(seed).shuffle(documents)
        shuffled[role] = Run(run.about, sorted(documents, key=lambda d: d["id"]))
    assert benchmark("gsm8k", shuffled) == found


def test_what_a_run_is_stands_in_its_record(tmp_path):
    write_all(tmp_path, n=20)
    write_run(tmp_path, "student + CAD", first(0.5, 20), task="gsm8k", tau=0.8)  # the same folder, another threshold
    with pytest.raises(ValueError, match="no finished run `student . CAD` of gsm8k"):
        runs_of(tmp_path, 0.95)
    for role in RUNS:
        write_run(tmp_path, role, first(0.5, 20), tau=0.8)
    assert set(runs_of(tmp_path, 0.8)["gsm8k"]) == set(RUNS)


def test_the_command_writes_every_row_and_says_what_limits_it(tmp_path, run_main):
    write_all(tmp_path, n=40)
    write_run(tmp_path, "teacher, fixed, full", first(0.7, 40), batch=8)
    message, out = run_main(paper_table.main, tmp_path)
    assert message is None
    text = (tmp_path / "table.md").read_text()
    assert text in out
    for paper in PAPER.values():
        assert f"| {paper.title} |" in text and str(paper.speedup) in text
    assert text.count("| not run |") == 3 and "40 of 1319 documents (not the whole published set)" in text
    assert "batch 1," in text and "batch 8," in text


def test_what_is_missing_is_named(tmp_path, refused):
    refused(paper_table.main, "holds no finished run", tmp_path)
    write_all(tmp_path, n=20)
    refused(paper_table.main, "of gsm8k (CAD at 0.9)", tmp_path, "--threshold", "0.9")
    write_run(tmp_path, "student + CAD", first(0.7, 19))
    refused(paper_table.main, "document 19 is missing from student + CAD", tmp_path)
