"""Runs compared: the embedded report's stored numbers, properties of pairs and families, and what cannot be compared."""

import gzip
import json

import numpy as np
import pytest

from cd4lm.decoding import DecodingOptions
from cd4lm.model import LLaDAConfig
from evaluation.compare import compare, families, summarise, tokens_per_second
from evaluation.run import Run
from tests.conftest import ROOT

MODEL = LLaDAConfig(vocab_size=10, mask_token_id=9)
CAUSAL = LLaDAConfig(vocab_size=10, mask_token_id=9, attention="block_causal", block_length=20)


def run_of(name: str, model: str, options: dict, right, nfe, tokens, seconds=1.0, causal=False) -> Run:
    decoder = DecodingOptions(gen_length=40, block_length=20, **options).decoder(CAUSAL if causal else MODEL, (7,))
    documents = [
        {"id": i, "doc": {"n": i}, "response": "r", "right": bool(r), "outcome": "right" if r else "wrong"}
        | {"nfe": f, "tokens": t, "seconds": seconds, "clock": seconds * (i + 1), "rank": 0, "session": 1}
        | {"truncated": False}
        for i, (r, f, t) in enumerate(zip(right, nfe, tokens, strict=True))
    ]
    return Run({"name": name, "task": "tiny", "model": {"name": model}, "decoder": decoder.about()}, documents)


def stored(name: str) -> tuple[dict, list[Run]]:
    """The analysis of an embedded report made before runs had a record, and its cells as runs."""
    file = ROOT / f"tests/fixtures/goldens/{name}_report.json.gz"
    report = json.loads(gzip.decompress(file.read_bytes()))
    runs = []
    for model, cells in report["cells"].items():
        for cell, c in cells.items():
            options = {"steps": c["setting"]} if c["family"] == "fixed" else {"confidence_threshold": c["setting"]}
            options |= {"cache": c["cache"]}
            columns = (c["problems"][column] for column in ("right", "nfe", "length"))
            runs.append(run_of(f"{model} {cell}", model, options, *columns, causal=c["cache"] == "block"))
    return report, runs


@pytest.mark.parametrize("name", ["tiny", "tiny_cdlm"])
def test_the_embedded_report_has_the_numbers_it_had(name):
    report, runs = stored(name)
    analysis = report["analysis"]
    compared = compare(runs, "teacher fixed-40", analysis["margin"])
    for run in runs:
        model, cell = run.name.split(" ")
        old, new = report["cells"][model][cell], compared["runs"][run.name]
        for measure in ("accuracy", "nfe", "tokens_before_eos", "tokens_per_forward"):
            assert new[measure] == pytest.approx(old[measure], abs=1e-12)
        assert new["accuracy_95"] == pytest.approx(old["accuracy_95"], abs=1e-6)
    kinds = {"fixed": "fixed", "CAD": "cad"}
    for family, old in analysis["nfe_at_equal_accuracy"].items():
        model, kind = family.split(" + ")
        same(compared["families"][f"{model} + {kinds[kind]}"]["nfe_at_equal_accuracy"], old)
    for pair, old in analysis["ratios"].items():
        sides = [f"{model} + {kinds[kind]}" for model, kind in (side.split(" + ") for side in pair.split(" / "))]
        same(compared["nfe_ratios"][" / ".join(sides)], old)
    for model, old in analysis["tests"].items():
        new = compared["against_reference"][f"{model} CAD-{analysis['headline']:g}"]
        same(new["accuracy_difference"], old["difference"])
        same(new["fewer_nfe"], old["fewer_nfe"])
        assert new["mcnemar_p"] == pytest.approx(old["mcnemar_p"])


def same(new: dict, old: dict) -> None:
    """The same value to the last digits; ends of an interval to the noise of 2,000 resamples drawn by another library."""
    assert new["value"] == (old["value"] if old["value"] is None else pytest.approx(old["value"], rel=1e-9, abs=1e-12))
    assert new["reached"] == pytest.approx(old["reached"], abs=0.06)
    if None not in old.values():
        width = old["high"] - old["low"]
        assert new["low"] == pytest.approx(old["low"], abs=0.1 * width + 0.003)
        assert new["high"] == pytest.approx(old["high"], abs=0.1 * width + 0.003)


def random_run(name: str, accuracy: float, nfe: float, n: int = 300, seed: int = 0, **options) -> Run:
    rng = np.random.default_rng(seed)
    right = rng.random(n) < accuracy
    return run_of(
        name, "m", options or {"confidence_threshold": 0.9}, right, (rng.poisson(nfe, n) + 1).tolist(), [20] * n
    )


def test_a_run_against_itself_and_a_cheaper_one():
    a = random_run("a", 0.9, 20)
    cheaper = [d | {"nfe": d["nfe"] / 2, "seconds": d["seconds"] / 4} for d in a.documents]
    compared = compare([a, Run(a.about | {"name": "b"}, cheaper)], "a")["against_reference"]["b"]
    assert compared["accuracy_difference"]["value"] == 0 and compared["mcnemar_p"] == 1
    assert compared["only_reference_right"] == compared["only_other_right"] == 0
    for name, ratio in (("fewer_nfe", 2), ("faster", 4)):
        assert [compared[name][k] for k in ("value", "low", "high")] == pytest.approx([ratio] * 3)


def test_intervals_hold_the_value_and_the_order_of_runs_changes_nothing():
    runs = [random_run(f"r{i}", 0.7 + 0.05 * i, 10 + i, seed=i, confidence_threshold=0.5 + 0.1 * i) for i in range(3)]
    one, other = compare(runs, "r0"), compare(runs[::-1], "r0")
    assert one["against_reference"] == other["against_reference"] and one["runs"] == other["runs"]
    for p in one["against_reference"].values():
        for e in (p["accuracy_difference"], p["fewer_nfe"]):
            assert e["low"] <= e["value"] <= e["high"]


def test_families_are_read_from_the_record():
    options = {"a_0.9": {"confidence_threshold": 0.9}, "b": {"confidence_threshold": 0.5}, "c": {"steps": 40}}
    options["d"] = {"confidence_threshold": 0.9, "stop_at_eos": False}
    runs = [random_run(name, 0.9, 10, **said) for name, said in options.items()]
    found = {label: [run.name for run in group] for label, group in families(runs).items()}
    assert found == {
        "m + cad, stop_at_eos=True": ["a_0.9", "b"],
        "m + fixed": ["c"],
        "m + cad, stop_at_eos=False": ["d"],
    }
    assert compare(runs)["families"]["m + cad, stop_at_eos=True"]["aup"] > 0


def test_equal_accuracy_is_interpolated_and_may_not_be_reached():
    reference = run_of("one", "m", {"steps": 40}, [1] * 90 + [0] * 10, [40] * 100, [20] * 100)
    low, high = (
        run_of(f"cad {n}", "m", {"confidence_threshold": tau}, [1] * n + [0] * (100 - n), [nfe] * 100, [20] * 100)
        for n, tau, nfe in ((80, 0.5, 10), (100, 0.9, 20))
    )
    compared = compare([reference, low, high], "one", margin=0.0)
    assert compared["families"]["m + cad"]["nfe_at_equal_accuracy"]["value"] == pytest.approx(15)
    assert compared["nfe_ratios"]["m + fixed / m + cad"]["value"] == pytest.approx(40 / 15)
    alone = compare([reference, low], "one", margin=0.0)["families"]["m + cad"]["nfe_at_equal_accuracy"]
    assert alone["value"] is None and alone["reached"] < 0.1


def test_what_cannot_be_compared_is_named():
    a = random_run("a", 0.9, 10)
    short = Run(a.about | {"name": "short"}, a.documents[:-1])
    with pytest.raises(ValueError, match="document 299 is missing from short"):
        compare([a, short])
    other = Run(a.about | {"name": "other"}, [d | {"doc": {"n": -d["id"]}} for d in a.documents])
    with pytest.raises(ValueError, match="document 1 is another one in other than in a"):
        compare([a, other])
    with pytest.raises(ValueError, match="two runs are called a"):
        compare([a, a])
    with pytest.raises(ValueError, match="no run is called b: use one of a"):
        compare([a], "b")
    with pytest.raises(ValueError, match="x ran gsm8k, a tiny"):
        compare([a, Run(a.about | {"name": "x", "task": "gsm8k"}, a.documents)])


def test_time_is_that_of_all_sessions_of_all_processes():
    rows = [(0, 1, 2.0, 10), (0, 1, 4.0, 10), (0, 2, 1.0, 30), (1, 1, 5.0, 20)]
    documents = [{"rank": r, "session": s, "clock": c, "tokens": t, "outcome": "right"} for r, s, c, t in rows]
    assert tokens_per_second(documents) == pytest.approx(50 / 5 + 20 / 5)


def test_several_responses_count_each():
    run = random_run("a", 1.0, 10, n=2)
    run.documents[0] |= {"outcomes": ["right", "wrong", "no_answer"]}
    run.documents[1] |= {"outcomes": ["right", "right", "right"]}
    found = summarise(run)
    assert found["responses"] == 6 and found["response_accuracy"] == pytest.approx(4 / 6) and found["accuracy"] == 1
    assert found["no_answer"] == 1 and found["outcomes"] == {"no_answer": 1, "right": 4, "wrong": 1}


def test_a_record_is_read_as_it_was_written(tmp_path):
    run = random_run("a", 0.9, 10, n=5)
    run.write(tmp_path / "run")
    again = Run.read(tmp_path / "run")
    assert again.about == run.about and summarise(again) == summarise(run)
    (tmp_path / "run/run.json").unlink()
    with pytest.raises(ValueError, match=r"run/run.json does not exist: finish that evaluation first"):
        Run.read(tmp_path / "run")
