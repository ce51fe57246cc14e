"""One class of options for every entry point: choosing a policy, what a checkpoint says, command lines, published lines."""

import argparse
import json
import subprocess
import sys
from dataclasses import replace

import pytest
from transformers import GenerationConfig

from cd4lm.decoding import (
    ConfidenceAdaptive,
    EntropyAdaptive,
    EntropyBounded,
    FactorAdaptive,
    FixedSteps,
    MultiBlock,
    StepBudget,
    policies,
)
from cd4lm.decoding.options import POLICIES, DecodingOptions
from cd4lm.model import LLaDAConfig
from tests.conftest import ROOT

NOTHING = DecodingOptions()
PUBLISHED = (
    "use_dynamic=true,gen_length=256,block_length=32,confidence_threshold=0.95,min_tokens_per_step=1,"
    "max_tokens_per_step=32,eos_threshold_ratio=0.3"
)
MULTI = "multi_block_threshold=0.9,certainty=confidence,block_add_threshold=0.1,window=3"
STORED = DecodingOptions(gen_length=64, block_length=16, confidence_threshold=0.8)
BIDIRECTIONAL = LLaDAConfig(vocab_size=10, mask_token_id=9)
BLOCK_CAUSAL = LLaDAConfig(vocab_size=10, mask_token_id=9, attention="block_causal", block_length=16)


def chosen(stored=NOTHING, **options):
    return DecodingOptions.parse(options).make_policy(stored, gen_length=256)


def decoder(text: str, stored=STORED, model_config=BIDIRECTIONAL):
    return DecodingOptions.parse(text, "gen_kwargs.").decoder(model_config, (7,), stored)


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
            ({"policy": "multi_block"}, MultiBlock()),
            ({"multi_block_threshold": 1, "window": 2}, MultiBlock(1, window=2)),
            (
                {"multi_block_threshold": 0.9, "certainty": "confidence", "block_add_threshold": 0.1},
                MultiBlock(0.9, 0.1, certainty="confidence"),
            ),
            ({"steps": 64}, FixedSteps(64)),
            ({"policy": "fixed", "remasking": "random"}, FixedSteps(256, "random")),
        ],
    )
    def test_by_name_or_by_parameter(self, options, policy):
        assert chosen(**options) == policy

    def test_every_policy_of_the_registry_can_be_chosen(self):
        for name, entry in POLICIES.items():
            policy = chosen(policy=name)
            assert type(policy) is vars(policies)[entry.policy]
            assert entry.option in vars(NOTHING) and entry.field in vars(policy)

    def test_the_checkpoint_decides_what_is_left_open(self):
        stored = DecodingOptions(policy="factor", factor=1.7, max_tokens_per_step=8, confidence_threshold=0.9)
        assert chosen(stored) == FactorAdaptive(1.7, max_tokens=8)
        assert chosen(stored, factor=0.5) == FactorAdaptive(0.5, max_tokens=8)
        assert chosen(stored, policy="cad") == ConfidenceAdaptive(0.9)  # the cap was factor's
        stored = DecodingOptions(policy="multi_block", multi_block_threshold=0.9, certainty="confidence", window=2)
        assert chosen(stored, window=3) == MultiBlock(0.9, certainty="confidence", window=3)
        assert chosen(stored, policy="cad") == ConfidenceAdaptive()

    @pytest.mark.parametrize(
        "options,message",
        [
            ({"policy": "factr"}, "policy='factr' is unknown: did you mean factor?"),
            ({"policy": "xyz"}, "use one of fixed, budget, cad"),
            ({"steps": 8, "confidence_threshold": 0.9}, "steps and confidence_threshold belong to different policies"),
            ({"policy": "cad", "factor": 1.0}, "factor belongs to policy factor, not cad"),
            ({"steps": 8, "max_tokens_per_step": 2}, "max_tokens_per_step does not apply to policy fixed"),
            ({"factor": 1.0, "remasking": "random"}, "remasking does not apply to policy factor"),
            (
                {"policy": "multi_block", "max_tokens_per_step": 4},
                "max_tokens_per_step does not apply to policy multi_b",
            ),
            ({"policy": "cad", "window": 2}, "window does not apply to policy cad"),
            ({"multi_block_threshold": 0.5, "factor": 1.0}, "factor and multi_block_threshold belong to different"),
            ({"multi_block_threshold": -1}, "threshold=-1.0 must be 0 or above"),
            ({"policy": "multi_block", "certainty": "margin"}, "certainty='margin' is unknown"),
            ({"policy": "multi_block", "window": 0}, "window=0 must be at least 1"),
            ({"policy": "multi-block"}, "did you mean multi_block?"),
            ({"confidence_threshold": 1.5}, "threshold=1.5"),
            ({"factor": "one"}, "factor='one' must be"),
            ({"steps": 2.5}, "steps=2.5 must be"),
        ],
    )
    def test_what_contradicts_itself_is_refused(self, options, message):
        with pytest.raises(ValueError) as error:
            chosen(**options)
        assert message in str(error.value)


class TestStored:
    def test_saved_flat_beside_what_is_there_and_read_by_transformers(self, tmp_path):
        file = tmp_path / "generation_config.json"
        file.write_text(json.dumps({"eos_token_id": 7, "factor": 3.0}))
        DecodingOptions(policy="entropy_bounded", entropy_bound=0.2, gen_length=64, block_length=16).save(tmp_path)
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
        ours = DecodingOptions.stored(tmp_path)
        assert ours.entropy_bound == 0.2 and ours.block_length == 16
        replace(ours, policy="cad", entropy_bound=None).save(tmp_path)
        assert DecodingOptions.stored(tmp_path) == replace(ours, policy="cad", entropy_bound=None)
        assert [p.name for p in tmp_path.iterdir()] == ["generation_config.json"]

    def test_a_file_of_an_older_checkpoint(self, tmp_path):
        (tmp_path / "generation_config.json").write_text('{"gen_length": 40, "confidence_threshold": 0.9}')
        assert NOTHING.make_policy(DecodingOptions.stored(tmp_path), 40) == ConfidenceAdaptive(0.9)
        assert DecodingOptions.stored(tmp_path / "nowhere") == NOTHING

    @pytest.mark.parametrize(
        "text,message",
        [
            ('{"policy": "factr"}', "did you mean factor"),
            ('{"confidence_threshold": "high"}', "confidence_threshold='high' must be"),
            ("{", "not valid JSON"),
            ("[1]", "not a JSON object"),
        ],
    )
    def test_a_damaged_file_is_named(self, tmp_path, text, message):
        (tmp_path / "generation_config.json").write_text(text)
        with pytest.raises(ValueError) as error:
            DecodingOptions.stored(tmp_path)
        assert message in str(error.value) and str(tmp_path) in str(error.value)


class TestDecoder:
    def test_the_published_line(self):
        found = decoder(PUBLISHED)
        assert found.policy == ConfidenceAdaptive(0.95, min_tokens=1, max_tokens=32)
        config = found.config
        assert (config.gen_length, config.block_length, config.eos_hold_ratio, config.temperature) == (256, 32, 0.3, 0)
        assert config.mask_id == 9 and config.eos_ids == (7,) and config.stop_at_eos

    def test_the_checkpoint_fills_the_gaps(self):
        found = decoder("use_dynamic=true")
        assert found.policy == ConfidenceAdaptive(0.8)
        assert (found.config.gen_length, found.config.block_length) == (64, 16)

    def test_the_name_says_what_is_not_the_default(self):
        assert decoder("multi_block_threshold=0.5").name == "multi_block, multi_block_threshold=0.5"
        wanted = "multi_block, multi_block_threshold=0.9, certainty=confidence, block_add_threshold=0.1, window=3"
        assert decoder(MULTI).name == wanted
        assert decoder("steps=16,remasking=random").name == "fixed, steps=16, remasking=random"

    def test_several_open_blocks_and_caches(self):
        assert (
            decoder(MULTI).config.cache == "none" and decoder(MULTI, model_config=BLOCK_CAUSAL).config.cache == "block"
        )
        with pytest.raises(ValueError, match="cache='dual' keeps keys and values around one block"):
            decoder(f"{MULTI},cache=dual")
        with pytest.raises(ValueError, match="window=5 is larger than the canvas: gen_length=64 has 4 blocks"):
            decoder("policy=multi_block,window=5")

    def test_completed_with_what_is_not_said(self):
        base = DecodingOptions(gen_length=64, temperature=0.5)
        assert DecodingOptions(temperature=0.0, steps=8).completed(base) == replace(base, temperature=0.0, steps=8)

    def test_fixed_steps(self):
        assert decoder("use_dynamic=false").policy == FixedSteps(64)
        assert decoder("use_dynamic=false,steps=16,remasking=random").policy == FixedSteps(16, "random")
        assert decoder("use_dynamic=true", DecodingOptions(policy="fixed")).policy == ConfidenceAdaptive(0.95)

    def test_the_cache_is_the_fastest_exact_one_and_an_approximate_one_is_refused_where_it_is_not_needed(self):
        assert decoder("").config.cache == "none" and decoder("", model_config=BLOCK_CAUSAL).config.cache == "block"
        assert decoder("cache=none", model_config=BLOCK_CAUSAL).config.cache == "none"
        with pytest.raises(ValueError, match="use 'block', which is exact here"):
            decoder("cache=dual", model_config=BLOCK_CAUSAL)
        with pytest.raises(ValueError, match="needs a block-causal checkpoint"):
            decoder("cache=block")

    @pytest.mark.parametrize(
        "text", [PUBLISHED, "steps=32", "tokens_per_step=2,cache=dual,refresh_interval=2", MULTI, ""]
    )
    def test_what_a_record_says_gives_the_same_decoder_again(self, text):
        found = decoder(text)
        again = DecodingOptions.parse(json.loads(json.dumps(found.about()))).decoder(BIDIRECTIONAL, (7,))
        assert again == found and hash(again) == hash(found)

    @pytest.mark.parametrize(
        "text,message",
        [
            ("confidence_treshold=0.9", "gen_kwargs.confidence_treshold: did you mean confidence_threshold"),
            ("genlength=256", "did you mean gen_length"),
            ("gen_length=many", "gen_kwargs.gen_length='many' must be"),
            ("gen_length", "'gen_length' is not of the form key=value"),
            ("steps=3,steps=4", "steps is given twice"),
            ("use_dynamic=true,policy=fixed", "use_dynamic=True contradicts policy=fixed"),
            ("gen_length=100,block_length=32", "not a multiple of block_length"),
            ("gen_length=0", "gen_length=0 and block_length=16 must be at least 1"),
        ],
    )
    def test_refused_by_name(self, text, message):
        with pytest.raises(ValueError) as error:
            decoder(text)
        assert message in str(error.value) and "\n" not in str(error.value)


def test_a_command_line_has_every_option_and_leaves_unsaid_what_is_not_given():
    parser = argparse.ArgumentParser()
    DecodingOptions.add_arguments(parser)
    assert DecodingOptions.of_arguments(parser.parse_args([])) == NOTHING
    words = "--steps 8 --no-stop_at_eos --temperature 0.5 --cache dual --seed 3 --infill"
    said = DecodingOptions(steps=8, stop_at_eos=False, temperature=0.5, cache="dual", seed=3, infill=True)
    assert DecodingOptions.of_arguments(parser.parse_args(words.split())) == said


def test_options_need_no_torch():
    code = "import sys, cd4lm.decoding.options; assert not {'torch', 'transformers'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
