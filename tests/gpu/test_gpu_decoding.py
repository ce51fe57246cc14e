"""Decoding on a GPU: captured steps, bounded memory, the speed of the caches."""

import pytest
import torch
from preflighting import gpu
from preflighting.checks import OK

from tests.gpu.bodies import (
    CACHES,
    POLICIES,
    captured_is_eager,
    captured_stream_is_bounded,
    mechanism_is_measured,
    needs,
    speedup,
)

pytestmark = [pytest.mark.gpu, needs(1)]
CUDA = torch.device("cuda")


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("policy", POLICIES)
def test_captured_steps_are_eager_steps(policy, cache):
    if policy == "multi_block" and cache in ("plain", "prefix", "dual"):
        pytest.skip(f"several open blocks do not go with cache={cache}")
    captured_is_eager(policy, cache, CUDA)


def test_captured_stream_in_bounded_memory():
    captured_stream_is_bounded(CUDA)


def test_captured_answers_of_the_bundled_teacher():
    line = gpu.captured_against_eager("captured", CUDA)
    assert line.verdict == OK, line.what


def test_bf16_of_the_bundled_teacher():
    line = gpu.bf16_against_float32("bf16", CUDA)
    assert line.verdict == OK, line.what


@pytest.mark.parametrize("cache", ["prefix", "dual", "block"])
def test_caches_are_faster(cache):
    """On a canvas after a long prompt, at 1b, where a forward is compute and not launches."""
    assert speedup(cache, "1b", torch.bfloat16, CUDA, prompt=512, canvas=256) > 1.2


def test_mechanism_of_the_bundled_teacher():
    mechanism_is_measured(CUDA)
