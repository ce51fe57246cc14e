"""--model_args and --gen_kwargs: strict names, the published ones understood, the checkpoint filling the gaps."""

import sys

import pytest

from cd4lm.decoding import ConfidenceAdaptive, DecodingOptions, FixedSteps
from cd4lm.model import LLaDAConfig
from evaluation import evaluation_script
from evaluation.dllm_eval.options import ModelOptions, generation_pairs, task_options

PUBLISHED = (
    "use_dynamic=true,gen_length=256,block_length=32,confidence_threshold=0.95,min_tokens_per_step=1,"
    "max_tokens_per_step=32,eos_threshold_ratio=0.3"
)
STORED = DecodingOptions(gen_length=64, block_length=16, confidence_threshold=0.8)
BIDIRECTIONAL = LLaDAConfig(vocab_size=10, mask_token_id=9)
BLOCK_CAUSAL = LLaDAConfig(vocab_size=10, mask_token_id=9, attention="block_causal", block_length=16)


def decoder(gen_kwargs: str, stored=STORED, model_config=BIDIRECTIONAL, **request):
    options, _ = task_options(generation_pairs(gen_kwargs) | request, seed=42)
    return options.decoder(model_config, (7,), stored)


class TestGenerationOptions:
    def test_the_published_line(self):
        found = decoder(PUBLISHED)
        assert found.policy == ConfidenceAdaptive(0.95, min_tokens=1, max_tokens=32)
        config = found.config
        assert (config.gen_length, config.block_length, config.eos_hold_ratio, config.temperature) == (256, 32, 0.3, 0)
        assert config.seed == 42 and config.mask_id == 9 and config.eos_ids == (7,) and config.stop_at_eos

    def test_the_checkpoint_fills_the_gaps(self):
        found = decoder("use_dynamic=true")
        assert found.policy == ConfidenceAdaptive(0.8)
        assert (found.config.gen_length, found.config.block_length) == (64, 16)

    def test_the_cache_is_the_fastest_exact_one_and_an_approximate_one_is_refused_where_it_is_not_needed(self):
        assert decoder("").config.cache == "none" and decoder("", model_config=BLOCK_CAUSAL).config.cache == "block"
        assert decoder("cache=none", model_config=BLOCK_CAUSAL).config.cache == "none"
        with pytest.raises(ValueError, match="use 'block', which is exact here"):
            decoder("cache=dual", model_config=BLOCK_CAUSAL)
        with pytest.raises(ValueError, match="needs a block-causal checkpoint"):
            decoder("cache=block")

    def test_fixed_steps(self):
        assert decoder("use_dynamic=false").policy == FixedSteps(64)
        assert decoder("use_dynamic=false,steps=16,remasking=random").policy == FixedSteps(16, "random")
        assert decoder("use_dynamic=true", DecodingOptions(policy="fixed")).policy == ConfidenceAdaptive(0.95)

    def test_lm_evals_own_arguments(self):
        found = decoder("", do_sample=False, temperature=0.7, max_gen_toks=50)
        assert found.config.temperature == 0 and (found.config.gen_length, found.config.block_length) == (64, 32)
        assert decoder("", do_sample=True, temperature=0.7).config.temperature == 0.7
        assert task_options({"until": ["\n\n", "Q:"]}, 0)[1] == ("\n\n", "Q:")
        assert task_options({"until": "Q:"}, 0)[1] == ("Q:",)

    def test_equal_settings_are_equal_decoders(self):
        assert hash(decoder(PUBLISHED)) == hash(decoder(PUBLISHED)) and decoder(PUBLISHED) == decoder(PUBLISHED)

    @pytest.mark.parametrize(
        "gen_kwargs,message",
        [
            (
                "confidence_treshold=0.9",
                "unknown key gen_kwargs.confidence_treshold: did you mean confidence_threshold",
            ),
            ("genlength=256", "did you mean gen_length"),
            ("gen_length=many", "gen_kwargs.gen_length='many' must be of type int"),
            ("gen_length", "'gen_length' is not of the form key=value"),
            ("steps=3,steps=4", "steps is given twice"),
            ("use_dynamic=true,policy=fixed", "use_dynamic=True contradicts policy=fixed"),
            ("seed=3", "gen_kwargs.seed: use --seed"),
        ],
    )
    def test_refused_by_name(self, gen_kwargs, message):
        with pytest.raises(ValueError, match=message.replace("(", r"\(")):
            generation_pairs(gen_kwargs)

    def test_refused_with_the_checkpoint(self):
        with pytest.raises(ValueError, match="not a multiple of block_length"):
            decoder("gen_length=100,block_length=32")
        with pytest.raises(ValueError, match="gen_length=0 and block_length=16 must be at least 1"):
            decoder("gen_length=0")
        with pytest.raises(ValueError, match="generation_kwargs.top_p"):
            decoder("", top_p=0.9)


def test_model_options():
    options = ModelOptions.parse("pretrained=/models/a=b/1,dtype=float32,mc_samples=4")
    assert (options.pretrained, options.dtype, options.mc_samples) == ("/models/a=b/1", "float32", 4)
    for text, message in (
        ("pretraned=x", "did you mean pretrained"),
        ("dtype=float32", "missing setting model_args.'pretrained'"),
        ("pretrained=x,dtype=half", "dtype='half' is not one of"),
        ("pretrained=x,mc_samples=0", "mc_samples=0 must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            ModelOptions.parse(text)


@pytest.mark.parametrize(
    "words,message",
    [
        (["--gen_kwargs", "max_token_per_step=3"], "did you mean max_tokens_per_step"),
        (["--model_args", "pretrained=/nowhere"], "/nowhere does not exist"),
        (["--tasks", "dllm_mbpp"], "add --confirm_run_unsafe_code"),
        (["--tasks", "dllm_gsm8k,arc_easy"], "mixes"),
        (["--limit", "0"], "--limit 0"),
        (["--samples", "0"], "--samples 0"),
        (["--tasks", "arc_easy", "--samples", "2"], "--samples 2 is for this repository's tasks"),
        (["--batch_size", "0"], "--batch_size 0"),
        (["--data_dir", "/nowhere"], "--data_dir /nowhere is not a folder"),
    ],
)
def test_the_command_refuses_before_it_writes(tmp_path, monkeypatch, words, message):
    base = ["--tasks", "dllm_gsm8k", "--model_args", "pretrained=checkpoints/tiny_teacher"]
    monkeypatch.setattr(sys, "argv", ["x", *base, "--output_path", str(tmp_path / "out"), *words])
    with pytest.raises(ValueError, match=message):
        evaluation_script.main()
    assert not (tmp_path / "out").exists()
