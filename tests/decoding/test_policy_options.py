"""Choosing a policy by name, and the settings a checkpoint carries."""

import json
from dataclasses import replace

import pytest
from transformers import GenerationConfig

from cd4lm.decoding import (
    ConfidenceAdaptive,
    EntropyAdaptive,
    EntropyBounded,
    FactorAdaptive,
    FixedSteps,
    StepBudget,
)
from cd4lm.decoding.generation_settings import GenerationSettings
from cd4lm.decoding.policy_options import POLICIES, PolicyOptions, choose_policy

DEFAULT = GenerationSettings()


def chosen(stored=DEFAULT, **options):
    return choose_policy(PolicyOptions(**options), stored, gen_length=256)


class TestChoosing:
    @pytest.mark.parametrize(
        "options,policy",
        [
            ({}, ConfidenceAdaptive(0.95)),
            ({"confidence_threshold": 0.8, "max_tokens_per_step": 4}, ConfidenceAdaptive(0.8, max_tokens=4)),
            ({"entropy_threshold": -1}, EntropyAdaptive(-1)),
            ({"policy": "entropy"}, EntropyAdaptive()),
            ({"factor": 2.0, "min_tokens_per_step": 2}, FactorAdaptive(2.0, min_tokens=2)),
            ({"policy": "entropy_bounded", "max_steps_per_block": 3}, EntropyBounded(max_steps_per_block=3)),
            ({"entropy_bound": 0.5}, EntropyBounded(0.5)),
            ({"tokens_per_step": 3}, StepBudget(3)),
            ({"steps": 64}, FixedSteps(64)),
            ({"policy": "fixed", "remasking": "random"}, FixedSteps(256, "random")),
        ],
    )
    def test_by_name_or_by_parameter(self, options, policy):
        assert chosen(**options) == policy

    def test_every_policy_of_the_registry_can_be_chosen(self):
        for name, entry in POLICIES.items():
            assert isinstance(chosen(policy=name), entry.policy)
            assert entry.option in vars(PolicyOptions()) and entry.field in vars(entry.policy())

    def test_the_checkpoint_decides_what_is_left_open(self):
        stored = GenerationSettings(policy="factor", factor=1.7, max_tokens_per_step=8, confidence_threshold=0.9)
        assert chosen(stored) == FactorAdaptive(1.7, max_tokens=8)
        assert chosen(stored, factor=0.5) == FactorAdaptive(0.5, max_tokens=8)
        assert chosen(stored, policy="cad") == ConfidenceAdaptive(0.9)  # the cap was factor's

    @pytest.mark.parametrize(
        "options,message",
        [
            ({"policy": "factr"}, "policy='factr' is unknown: did you mean factor?"),
            ({"policy": "xyz"}, "use one of fixed, budget, cad"),
            ({"steps": 8, "confidence_threshold": 0.9}, "steps and confidence_threshold belong to different policies"),
            ({"policy": "cad", "factor": 1.0}, "factor belongs to policy factor, not cad"),
            ({"steps": 8, "max_tokens_per_step": 2}, "max_tokens_per_step does not apply to policy fixed"),
            ({"factor": 1.0, "remasking": "random"}, "remasking does not apply to policy factor"),
            ({"confidence_threshold": 1.5}, "threshold=1.5"),
            ({"factor": "1"}, "factor='1' must be a number"),
            ({"steps": 2.5}, "steps=2.5 must be a number"),
        ],
    )
    def test_what_contradicts_itself_is_refused(self, options, message):
        with pytest.raises(ValueError) as error:
            chosen(**options)
        assert message in str(error.value)


class TestGenerationSettings:
    def test_saved_flat_beside_what_is_there_and_read_by_transformers(self, tmp_path):
        file = tmp_path / "generation_config.json"
        file.write_text(json.dumps({"eos_token_id": 7, "factor": 3.0}))
        GenerationSettings(policy="entropy_bounded", entropy_bound=0.2, gen_length=64, block_length=16).save(tmp_path)
        stored = json.loads(file.read_text())
        assert not any(isinstance(value, (dict, list)) for value in stored.values())
        assert "factor" not in stored and stored["eos_token_id"] == 7
        theirs = GenerationConfig.from_pretrained(tmp_path)
        assert (theirs.policy, theirs.entropy_bound, theirs.gen_length, theirs.eos_token_id) == (
            "entropy_bounded",
            0.2,
            64,
            7,
        )
        ours = GenerationSettings.load(tmp_path)
        assert ours.entropy_bound == 0.2 and ours.block_length == 16
        replace(ours, policy="cad", entropy_bound=None).save(tmp_path)
        assert GenerationSettings.load(tmp_path) == replace(ours, policy="cad", entropy_bound=None)
        assert [p.name for p in tmp_path.iterdir()] == ["generation_config.json"]

    def test_a_file_of_an_older_checkpoint(self, tmp_path):
        (tmp_path / "generation_config.json").write_text('{"gen_length": 40, "confidence_threshold": 0.9}')
        assert choose_policy(PolicyOptions(), GenerationSettings.load(tmp_path), 40) == ConfidenceAdaptive(0.9)
        assert GenerationSettings.load(tmp_path / "nowhere") == DEFAULT

    @pytest.mark.parametrize(
        "text,message",
        [
            ('{"policy": "factr"}', "did you mean factor"),
            ('{"confidence_threshold": "high"}', "confidence_threshold='high' must be a number"),
            ("{", "not valid JSON"),
            ("[1]", "not a JSON object"),
        ],
    )
    def test_a_damaged_file_is_named(self, tmp_path, text, message):
        (tmp_path / "generation_config.json").write_text(text)
        with pytest.raises(ValueError) as error:
            GenerationSettings.load(tmp_path)
        assert message in str(error.value) and str(tmp_path) in str(error.value)
