"""From stored cells to intervals and tests: on numbers whose answer is known."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest

from evaluation.intervals import holm
from evaluation.study.analysis import analyse
from evaluation.study.page import write_page
from evaluation.study.resampling import Draws, accuracy_at, family_nfe_at, interval, p_value
from evaluation.study.results import Results
from evaluation.study.settings import Contrast
from evaluation.study.text import span
from tests.evaluation.study_world import results, study

EQUAL = {"teacher": (0.95, 20.0, 1.0), "a": (0.95, 11.0, 1.0), "b": (0.95, 11.0, 1.0), "c": (0.95, 11.0, 1.0)}


class TestHolm:
    def test_by_hand(self):
        assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
        assert holm([]) == [] and holm([0.9, 0.8]) == [1.0, 1.0]

    def test_against_statsmodels(self):
        multitest = pytest.importorskip("statsmodels.stats.multitest")
        rng = random.Random(0)
        for n in (1, 2, 7, 30):
            p = [rng.random() ** 3 for _ in range(n)]
            assert holm(p) == pytest.approx(multitest.multipletests(p, method="holm")[1])


class TestResampling:
    def test_one_seed_is_the_bootstrap_over_problems(self):
        values = np.random.default_rng(0).random((1, 50))
        draws = Draws(300, 0)
        assert draws.mean(values) == pytest.approx(draws.problems(50) @ values[0])
        assert draws.mean(values)[0] == pytest.approx(values.mean())

    def test_seeds_that_differ_widen_the_interval(self):
        """Problems all alike: what is left is the three seeds, of which 1/27 of the draws are three times the lowest."""
        values = np.array([[0.1] * 50, [0.2] * 50, [0.3] * 50])
        e = interval(Draws(4000, 0).mean(values))
        assert (e["value"], e["low"], e["high"]) == pytest.approx((0.2, 0.1, 0.3))

    def test_differences_are_paired_over_problems_and_seeds(self):
        a = np.random.default_rng(1).random((3, 80)) + np.array([[0.0], [0.5], [1.0]])
        draws = Draws(300, 0)
        e = interval(draws.mean(a + 0.25) - draws.mean(a))
        assert (e["low"], e["high"]) == pytest.approx((0.25, 0.25))

    def test_p_value(self):
        assert p_value(np.full(1000, 0.1)) == pytest.approx(2 / 1000)
        assert p_value(np.zeros(1000)) == 1.0
        assert p_value(np.full(1000, np.nan)) == 1.0
        symmetric = np.array([0.0, *np.linspace(-1, 1, 999)])
        assert p_value(symmetric) == pytest.approx(1.0, abs=0.01)
        assert p_value(symmetric + 0.9) == pytest.approx(2 * (1 + 50) / 1000, abs=0.005)

    def test_an_open_interval(self):
        e = interval(np.array([3.0, *[2.0] * 10, *[4.0] * 80, *[np.inf] * 10]))
        assert e == {"value": 3.0, "low": 2.0, "high": None}
        assert span(e) == "3.0 [2.0, ∞]"


class TestFrontier:
    def test_the_best_mix_within_a_budget(self):
        nfe, accuracy = np.array([[4.0, 8.0, 20.0]]), np.array([[0.4, 0.9, 0.95]])
        assert accuracy_at(accuracy, nfe, 8.0) == pytest.approx(0.9)
        assert accuracy_at(accuracy, nfe, 6.0) == pytest.approx(0.65)
        assert accuracy_at(accuracy, nfe, 100.0) == pytest.approx(0.95)
        assert np.isnan(accuracy_at(accuracy, nfe, 3.0)).all()
        dominated = np.array([[0.4, 0.2, 0.95]])
        assert accuracy_at(dominated, nfe, 8.0) == pytest.approx(0.4 + 0.25 * 0.55)

    def test_what_is_never_reached_is_infinite(self):
        nfe, accuracy = np.array([[4.0, 8.0]]), np.array([[0.4, 0.9]])
        assert family_nfe_at(accuracy, nfe, np.array([0.95])) == [np.inf]
        assert family_nfe_at(accuracy, nfe, np.array([0.65])) == pytest.approx(6.0)


def rows(levels: dict, **changes) -> dict[str, dict]:
    config = study(**changes)
    return {row["id"]: row for row in analyse(results(config, levels))["contrasts"]}


class TestContrasts:
    def test_signs_follow_the_numbers(self):
        better = rows(EQUAL | {"b": (0.85, 11.0, 1.0)})["C1"]
        assert better["sign"] == 1 and better["difference"]["value"] > 0.05 and better["p_holm"] < 0.05
        worse = rows(EQUAL | {"a": (0.85, 11.0, 1.0)})["C1"]
        assert worse["sign"] == -1 and worse["p_holm"] < 0.05
        same = rows(EQUAL)["C1"]
        assert same["sign"] == 0 and same["p"] == 1.0

    def test_fewer_forward_passes_and_a_higher_likelihood_loss(self):
        found = rows(EQUAL | {"c": (0.95, 11.0, 2.0)})
        assert found["C2"]["sign"] == -1 and found["C2"]["difference"]["value"] < 0
        assert found["C3"]["sign"] == 1 and found["C3"]["p_holm"] is None and found["C3"]["seeds"] == [1]

    def test_a_family_that_never_reaches_the_accuracy_loses(self):
        row = rows(EQUAL | {"a": (0.6, 11.0, 1.0)})["C2"]
        assert row["sign"] == 1 and row["value_a"]["value"] is None and row["difference"]["low"] is None

    def test_many_main_contrasts_ask_for_more(self):
        """A difference that would pass alone and does not among twenty."""
        levels = EQUAL | {"b": (0.915, 11.0, 1.0)}
        one = Contrast("a", "b", "x", "accuracy", main=True)
        alone = rows(levels, contrasts=(one,), resamples=2000, seeds=(2,))["C1"]
        null = Contrast("b", "b", "nothing", "accuracy", main=True)
        among = rows(levels, contrasts=(one, *[null] * 19), resamples=2000, seeds=(2,))["C1"]
        assert alone["p"] == among["p"] and among["p_holm"] == pytest.approx(min(1, 20 * alone["p"]))
        assert alone["p_holm"] < 0.05 < among["p_holm"]

    def test_only_what_both_sides_have_is_compared(self):
        row = rows(EQUAL, exploratory_problems=50)["C3"]
        assert row["problems"] == 50 and row["seeds"] == [1] and len(row["mcnemar"]) == 1


class TestPage:
    @pytest.fixture
    def write(self, tmp_path, monkeypatch):
        def call(levels: dict, leave_out: tuple[str, ...] = ()) -> tuple[str, dict]:
            config = replace(study(), report=str(tmp_path / "page.md"), output_dir=str(tmp_path / "out"))
            made = results(config, levels, leave_out)
            monkeypatch.setattr(Results, "read", classmethod(lambda cls, study: made))
            text = write_page(config, "configs/study.yaml").read_text()
            return text, json.loads((tmp_path / "page/results.json").read_text())

        return call

    def test_everything_is_there(self, write, tmp_path):
        text, stored = write(EQUAL)
        assert (
            "What this page cannot decide" in text
            and "`python scripts/study.py configs/study.yaml --cell NAME`" in text
        )
        assert "Incomplete" not in text and text.count("| a/seed-2 |") == 2 + 1 and "| C1 |" in text
        assert sorted(stored["cells"]) == sorted(
            ["teacher", *(f"{v}/seed-{s}" for v in "ab" for s in (1, 2, 3)), "c/seed-1"]
        )
        assert "problems" not in stored["cells"]["teacher"]["frontier"]["decoders"]["CAD-0.9"]
        for name in ("frontier.png", "equal.png", "reliability.png", "cells.json.gz"):
            assert (tmp_path / "page" / name).stat().st_size > 1000

    def test_the_same_cells_make_the_same_page(self, write):
        assert write(EQUAL) == write(EQUAL)

    def test_missing_cells_are_named_and_their_contrasts_left_out(self, write):
        text, stored = write(EQUAL, ("c/seed-1", "b/seed-3"))
        assert "2 cells are not there: c/seed-1, b/seed-3" in text
        assert [row["id"] for row in stored["analysis"]["contrasts"]] == ["C1", "C2"]
        assert stored["analysis"]["contrasts"][0]["seeds"] == [1, 2]

    def test_without_the_teacher_there_is_no_page(self, write):
        with pytest.raises(ValueError, match="the teacher"):
            write(EQUAL, ("teacher",))
