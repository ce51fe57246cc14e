"""The plan of a study: what it refuses, the cells it means, and the plan that is shipped."""

from pathlib import Path

import pytest

from cd4lm.config import ConfigError, build, load
from evaluation.study.settings import Cell, StudyConfig, cell_named, cells_of, experiment_of, needed_cells
from tests.conftest import ROOT
from tests.evaluation.study_world import study

PLAN = {
    "experiment": str(ROOT / "configs/tiny.yaml"),
    "output_dir": "out",
    "base": ["data.answers=data", "data.dir=data/x"],
    "variants": {"a": [], "warm": ["init_from={output_dir}/a/seed-{seed}/student"]},
    "contrasts": [{"a": "a", "b": "teacher", "claim": "a is better", "measure": "nfe"}],
}


@pytest.mark.parametrize(
    "change,message",
    [
        ({"colour": 1}, "unknown key colour"),
        ({"variants": {"teacher": []}}, "variants.teacher: use letters"),
        ({"variants": {"a/b": []}}, "variants.a/b: use letters"),
        ({"variants": {"a": "x"}}, "variants.a='x' must be a list"),
        ({"main": ["z"]}, "no variant is called z"),
        ({"variants": {"a": ["init_from={output_dir}/q/seed-{seed}/student"]}}, "no variant is called q"),
        ({"contrasts": [{"a": "a", "b": "z", "claim": "", "measure": "nfe"}]}, "no variant is called z"),
        ({"contrasts": [{"a": "a", "b": "a", "claim": "", "measure": "speed"}]}, "measure='speed' is not one of"),
        ({"contrasts": [{"a": "a", "b": "a", "measure": "nfe"}]}, "missing setting .*claim"),
        ({"headline": 0.5, "thresholds": [0.9]}, "must hold the headline 0.5"),
        ({"thresholds": [0.85, 1.5]}, "thresholds.1=1.5 must be at most 1"),
        ({"problems": 50}, "problems=50 must be at least"),
        ({"exploratory_problems": 60}, "problems=60 must be at least"),
        ({"seeds": [1, 1]}, "must differ"),
        ({"processes": 0}, "processes=0 must be at least 1"),
    ],
)
def test_bad_plans_are_refused(change, message):
    with pytest.raises(ConfigError, match=message) as caught:
        build(StudyConfig, PLAN | change)
    assert "\n" not in str(caught.value)


def test_main_variants_have_every_seed_and_the_others_the_first():
    names = [cell.name for cell in cells_of(study())]
    assert names == ["teacher", "a/seed-1", "b/seed-1", "c/seed-1", "a/seed-2", "b/seed-2", "a/seed-3", "b/seed-3"]
    assert cell_named(study(), "b/seed-3") == Cell("b", 3)
    with pytest.raises(ValueError, match="no cell is called 'c/seed-2': use one of teacher"):
        cell_named(study(), "c/seed-2")


def test_a_cell_trains_what_its_variant_says():
    plan = build(StudyConfig, PLAN)
    experiment = experiment_of(plan, Cell("warm", 1))
    assert experiment.init_from == "out/a/seed-1/student" and experiment.train.seed == 1
    assert (experiment.output_dir, experiment.data.answers) == ("out/warm/seed-1", "data")
    assert experiment.evaluate is None and experiment.also == {}
    assert needed_cells(plan, Cell("warm", 1)) == [Cell("a", 1)] and needed_cells(plan, Cell("a", 1)) == []
    assert experiment_of(plan, Cell("a", 1), Path("again")).output_dir == "again"


@pytest.mark.parametrize("name", ["study", "study_large"])
def test_the_shipped_plans_load_with_every_variant(monkeypatch, name):
    monkeypatch.chdir(ROOT)
    plan = load(StudyConfig, f"configs/{name}.yaml")
    experiments = {cell.variant: experiment_of(plan, cell) for cell in cells_of(plan)}
    assert {e.data.dataset for e in experiments.values()} == {"tiny_long" if name == "study_large" else "tiny"}
    published = experiments["dscd"].dscd
    assert (published.temperature, published.initial_lambda, published.final_lambda) == (2.0, 0.9, 0.5)
    assert (published.kl_positions, published.masks, published.clamp) == ("student", "nested", None)
    assert experiments["lambda0"].dscd.initial_lambda == experiments["lambda0"].dscd.final_lambda == 0
    assert experiments["dscd"].data.answers == "data" and experiments["own_answers"].data.answers == "teacher"
    assert experiments["continued"].block_causal is None and experiments["continued"].cdlm.denoising == 1
    assert experiments["combination"].cdlm is None and experiments["combination"].block_causal.block_length == 20
    assert len(plan.seeds) >= 3 and plan.problems >= 1000 and set(plan.labels) == {"teacher", *plan.variants}
    main = {name for c in plan.contrasts if c.main for name in (c.a, c.b)} - {"teacher"}
    assert main <= set(plan.main)
