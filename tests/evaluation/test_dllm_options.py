"""--model_args and --gen_kwargs: strict names, and lm-eval's own arguments understood."""

import sys

import pytest

from cd4lm.decoding import DecodingOptions
from cd4lm.model import LLaDAConfig
from evaluation import evaluation_script
from evaluation.dllm_eval.options import ModelOptions, generation_pairs, task_options

STORED = DecodingOptions(gen_length=64, block_length=16, confidence_threshold=0.8)


def decoder(gen_kwargs: str, **request):
    options, _ = task_options(generation_pairs(gen_kwargs) | request, seed=42)
    return options.decoder(LLaDAConfig(vocab_size=10, mask_token_id=9), (7,), STORED)


def test_lm_evals_own_arguments():
    found = decoder("", do_sample=False, temperature=0.7, max_gen_toks=50)
    assert found.config.temperature == 0 and (found.config.gen_length, found.config.block_length) == (64, 32)
    assert found.config.seed == 42 and decoder("", do_sample=True, temperature=0.7).config.temperature == 0.7
    assert task_options({"until": ["\n\n", "Q:"]}, 0)[1] == ("\n\n", "Q:")
    assert task_options({"until": "Q:"}, 0)[1] == ("Q:",)


def test_generation_options_refused_by_name():
    for text, message in (("seed=3", "gen_kwargs.seed: use --seed"), ("genlength=256", "did you mean gen_length")):
        with pytest.raises(ValueError, match=message):
            generation_pairs(text)
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
