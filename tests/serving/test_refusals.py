"""What is refused before a weight is read, in one line, and what a checkpoint sets by itself."""

import json
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
from vllm import SamplingParams
from vllm.engine.arg_utils import EngineArgs
from vllm.exceptions import VLLMValidationError

from cd4lm.decoding import DecodingOptions
from cd4lm_vllm.requests import check_request
from tests.conftest import ROOT
from tests.serving.conftest import random_student


def settings(folder, **options):
    common = {"skip_tokenizer_init": True, "enforce_eager": True, "dtype": "float32"}
    return EngineArgs(model=str(folder), **(common | options)).create_engine_config()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return random_student("llada", tmp_path_factory.mktemp("random"))


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    return random_student("dream", tmp_path_factory.mktemp("wide"), block_length=48)


def test_settings_follow_the_checkpoint(folder, wide):
    made = settings(folder, max_model_len=250)
    assert made.diffusion_config.canvas_length == 16 and made.cache_config.block_size % 16 == 0
    assert made.model_config.max_model_len == 240  # whole blocks
    defaults = made.model_config.get_diff_sampling_param()
    assert defaults["max_tokens"] == 48 and defaults["temperature"] == 0
    assert settings(folder, override_generation_config={"temperature": 0.5}).model_config.get_diff_sampling_param()[
        "temperature"
    ] == pytest.approx(0.5)
    DecodingOptions(gen_length=96, block_length=48).save(wide)
    assert settings(wide).cache_config.block_size == 96  # of 48 and 32


@pytest.mark.parametrize(
    "options,message",
    [
        ({"block_size": 24}, "--block-size 24 is no multiple of the checkpoint's blocks of 16: use 16 or leave it out"),
        ({"enable_lora": True}, "served without --enable-lora (merge the adapter"),
        (
            {"speculative_config": {"method": "ngram", "num_speculative_tokens": 2}},
            "served without --speculative-config",
        ),
        ({"structured_outputs_config": {"backend": "guidance"}}, "served without a structured output backend"),
        ({"diffusion_config": {"canvas_length": 32}}, "canvas_length is 16: leave it out"),
        (
            {"enforce_eager": False, "compilation_config": {"cudagraph_mode": "FULL"}},
            "use PIECEWISE, or add --enforce-eager",
        ),
        ({"max_num_batched_tokens": 8, "max_num_seqs": 4}, "max_num_batched_tokens=8 is less than a block of 16"),
    ],
)
def test_options_that_the_path_does_not_support(folder, options, message):
    with pytest.raises(ValueError) as caught:
        settings(folder, **options)
    assert message in str(caught.value)


def test_checkpoints_that_are_not_served(tmp_path):
    for attention, message in (
        ({"attention": "bidirectional", "block_length": None, "block_grid": None}, "only block-causal students are"),
        ({"block_grid": "answer"}, "train the student with block_causal.grid=absolute"),
    ):
        shutil.rmtree(tmp_path / "one", ignore_errors=True)
        with pytest.raises(ValueError, match=message):
            settings(random_student("llada", tmp_path / "one", **attention))
    other = random_student("llada", tmp_path / "other")
    for said, message in (
        (DecodingOptions(policy="entropy"), "policy=entropy is not served: use cad"),
        (DecodingOptions(block_length=32), "block_length=32, but the checkpoint has blocks of 16: correct it"),
        (DecodingOptions(gen_length=40), "gen_length=40 is not a multiple of block_length=16"),
    ):
        (other / "generation_config.json").unlink()
        said.save(other)
        with pytest.raises(ValueError, match=message):
            settings(other)


def test_a_server_says_it_in_one_line():
    words = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", "checkpoints/tiny_teacher"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and last.startswith("error: checkpoints/tiny_teacher is bidirectional"), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "params,message",
    [
        ({"top_p": 0.5}, "top_p=0.5 is not supported by block-causal students"),
        ({"top_k": 3}, "top_k=3"),
        ({"min_tokens": 2}, "min_tokens=2"),
        ({"repetition_penalty": 1.2}, "repetition_penalty=1.2"),
        ({"logprobs": 1}, "logprobs=1"),
        ({"extra_args": {"confidence_threshold": 1.5}}, "confidence_threshold=1.5 is not a probability"),
        ({"extra_args": {"confidence_threshold": "high"}}, "confidence_threshold='high' is not a probability"),
        ({"extra_args": {"threshold": 0.5}}, "unknown argument threshold: the only one is confidence_threshold"),
    ],
)
def test_requests_that_cannot_be_honoured(params, message):
    with pytest.raises(VLLMValidationError) as caught:
        check_request(SamplingParams(**params))
    assert message in str(caught.value)


def test_other_diffusion_models_keep_vllms_own_check(folder):
    check_request(SamplingParams(temperature=0.3, seed=1, extra_args={"confidence_threshold": 0.5}))
    settings(folder)  # registers ours
    theirs = SimpleNamespace(is_diffusion=True, hf_config=SimpleNamespace())
    with pytest.raises(VLLMValidationError, match="temperature"):
        SamplingParams(temperature=0.3)._validate_diffusion(theirs)
    assert json.loads((folder / "config.json").read_text())["model_type"] == "llada"
