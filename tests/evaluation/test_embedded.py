"""The grid of decoders that the embedded comparison measures, and what its runs are called."""

import pytest
import torch
from safetensors.torch import save_file

from cd4lm.config import ConfigError, build
from cd4lm.decoding import ConfidenceAdaptive, FixedSteps, MultiBlock
from cd4lm.model import LLaDAConfig
from cd4lm.settings import EvaluateConfig, ExperimentConfig
from evaluation.embedded import cells_of, cheapest, decoders, measured, run_name, thresholds_of
from evaluation.run import Run
from scripts.run_experiment import check_experiment
from tests.training.worlds import settings, write_teacher_and_data

GRID = {"gen_length": 40, "block_length": 20, "fixed_steps": [40, 4], "thresholds": [0.9], "headline": 0.9}
MULTI = {"policy": "multi_block", "block_add_threshold": 0.1}
BIDIRECTIONAL = LLaDAConfig(vocab_size=10, mask_token_id=9)
BLOCK_CAUSAL = LLaDAConfig(vocab_size=10, mask_token_id=9, attention="block_causal", block_length=20)


def grid_of(*further: dict, name="teacher", model_config=BIDIRECTIONAL, **changes) -> tuple:
    config = build(EvaluateConfig, GRID | changes | {"decoders": list(further)}, "evaluate.")
    return config, decoders(config, name, model_config, (7,))


def test_further_decoders_come_last_with_the_settings_of_the_grid():
    _, found = grid_of(MULTI, {"confidence_threshold": 0.9, "block_length": 10}, eos_hold_ratio=0.3, seed=5)
    policies = [FixedSteps(40), FixedSteps(4), ConfidenceAdaptive(0.9), MultiBlock(0.5, 0.1), ConfidenceAdaptive(0.9)]
    assert [decoder.policy for decoder in found] == policies
    assert [decoder.config.block_length for decoder in found] == [20, 20, 20, 20, 10]
    assert {(d.config.gen_length, d.config.eos_hold_ratio, d.config.seed, d.config.cache) for d in found} == {
        (40, 0.3, 5, "none")
    }


def test_a_grid_without_them_is_what_it_was():
    config, found = grid_of()
    assert config == build(EvaluateConfig, GRID)
    names = ["fixed, steps=40", "fixed, steps=4", "cad, confidence_threshold=0.9"]
    assert [run_name(config, "teacher", decoder) for decoder in found] == [f"teacher + {name}" for name in names]


def test_a_block_causal_student_has_each_with_the_exact_cache_too():
    config, found = grid_of(MULTI, model_config=BLOCK_CAUSAL)
    assert [decoder.config.cache for decoder in found] == ["none"] * 4 + ["block"] * 4
    assert run_name(config, "s", found[-1]) == (
        "s + multi_block, multi_block_threshold=0.5, block_add_threshold=0.1, exact cache"
    )


def test_the_control_is_not_measured_at_one_token_per_step():
    found = [decoder.policy for decoder in grid_of(MULTI, name="control (lambda = 0)")[1]]
    assert found == [FixedSteps(4), ConfidenceAdaptive(0.9), MultiBlock(0.5, 0.1)]


def run_of(threshold: float, right: int, nfe: int) -> Run:
    documents = [{"id": i, "right": i < right, "nfe": nfe} for i in range(10)]
    return Run({"name": f"cad {threshold}", "decoder": {"confidence_threshold": threshold}}, documents)


def test_the_threshold_that_validation_chooses():
    runs = [run_of(0.9, 9, 20), run_of(0.7, 8, 12), run_of(0.5, 5, 8)]
    assert cheapest(runs, 0.75).name == "cad 0.7" and cheapest(runs, 0.9).name == "cad 0.9"
    assert cheapest(runs, 0.1).name == "cad 0.5" and cheapest(runs, 1.0).name == "cad 0.9"


@pytest.mark.slow
def test_a_headline_chosen_by_the_program(tmp_path):
    """On a teacher with random weights every threshold is as good as one token per step, so the loosest is chosen."""
    write_teacher_and_data(tmp_path)
    tree = settings(tmp_path, "run") | {
        "evaluate": GRID
        | {"headline": None, "thresholds": [0.9, 0.0001], "problems": 4, "validation_problems": 4, "margin": 0.5}
    }
    config = build(ExperimentConfig, tree)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/student").symlink_to(tmp_path / "teacher")
    found = thresholds_of(config)
    assert found == {"teacher": 0.0001, "DSCD student": 0.0001}
    assert not (tmp_path / "run/runs").exists() and (tmp_path / "run/validation/runs").is_dir()


def test_runs_of_two_weight_types_do_not_stand_for_each_other(tmp_path):
    write_teacher_and_data(tmp_path)
    (tmp_path / "run").mkdir()

    def run(**dtype):
        evaluate = GRID | {"fixed_steps": [40], "split": "validation", "problems": 2} | dtype
        tree = settings(tmp_path, "run") | {"evaluate": evaluate}
        (found,) = measured(cells_of(build(ExperimentConfig, tree), ["teacher"], lambda _, d: d.policy_name == "fixed"))
        return found.about

    usual, low, again = run(), run(dtype="bfloat16"), run(dtype="bfloat16")
    assert (usual["dtype"], low["dtype"]) == ("float32", "bfloat16")
    assert usual["key"] != low["key"] and low == again


def test_what_differs_from_the_grid_is_in_the_name():
    further = [{"steps": 4, "temperature": 0.5}, {"confidence_threshold": 0.9, "cache": "dual"}]
    config, found = grid_of(*further)
    names = ["t + fixed, steps=4, temperature=0.5", "t + cad, confidence_threshold=0.9, cache=dual"]
    assert [run_name(config, "t", decoder) for decoder in found[-2:]] == names


@pytest.mark.parametrize(
    "further,message",
    [
        ({"policy": "multi-block"}, "evaluate.decoders.0.policy='multi-block' is unknown: did you mean multi_block?"),
        ({"polcy": "cad"}, "evaluate.decoders.0.polcy: did you mean policy?"),
        ({"multi_block_threshold": "low"}, "evaluate.decoders.0.multi_block_threshold='low' must be"),
        (MULTI | {"window": 3}, "window=3 is larger than the canvas: gen_length=40 has 2 blocks"),
        (MULTI | {"multi_block_threshold": -1}, "threshold=-1.0 must be 0 or above"),
        ({"steps": 4}, "evaluate.decoders: fixed, steps=4 is in the grid twice"),
        ({"confidence_threshold": 0.9, "cache": "block"}, "cache='block' needs a block-causal checkpoint"),
    ],
)
def test_refused_by_name(further, message):
    with pytest.raises((ConfigError, ValueError)) as error:
        grid_of(further)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_refused_before_anything_is_trained(tmp_path):
    write_teacher_and_data(tmp_path)
    save_file({"nothing": torch.zeros(1)}, tmp_path / "teacher/model.safetensors")
    good = settings(tmp_path, "run") | {"evaluate": GRID | {"decoders": [MULTI]}}
    check_experiment(build(ExperimentConfig, good))
    for further, message in (({"window": 3}, "window=3 is larger"), ({"cache": "prefix"}, "cache='prefix' keeps keys")):
        with pytest.raises(ValueError, match=message):
            bad = good | {"evaluate": GRID | {"decoders": [MULTI | further]}}
            check_experiment(build(ExperimentConfig, bad))
