"""Served tokens are those of our engine with cache="block": every backbone, whatever vLLM's scheduler does with them."""

import gc

import pytest
import torch
from vllm import LLM, SamplingParams
from vllm.distributed import cleanup_dist_env_and_memory
from vllm.v1.worker.gpu.warmup import warmup_kernels

from tests.serving.conftest import BLOCK, CONTEXT, ENDS, engine_answers, random_student

# Each engine starts once, in a mode of its own; a budget of 80 tokens cuts prompts into chunks and makes canvases wait.
MODES = {
    "llada": {"async_scheduling": True, "max_num_batched_tokens": 80, "block_size": 32},
    "dream": {"async_scheduling": False, "enable_prefix_caching": False, "max_num_batched_tokens": 80},
    # 8 pages of 32: two of the four requests that run at a time do not fit for long.
    "illada": {"async_scheduling": True, "block_size": 32, "num_gpu_blocks_override": 9},
}
SHAPES = {"llada": {"d_model": 64, "n_heads": 2}}  # heads of 32, which need no padding; the others have heads of 8
LENGTHS = (1, 3, 16, 17, 31, 45, 64, 77, 150)


def prompts_of(lengths) -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, 57, (n,), generator=generator).tolist() for n in lengths]


class Engine:
    """A running vLLM, and the checkpoint that it serves."""

    def __init__(self, backbone: str, folder):
        self.backbone, self.folder = backbone, random_student(backbone, folder, **SHAPES.get(backbone, {}))
        common = {"skip_tokenizer_init": True, "enforce_eager": True, "dtype": "float32", "max_num_seqs": 4}
        self.llm = LLM(str(folder), disable_log_stats=False, **common, **MODES[backbone])

    def answers(self, prompts, *, max_tokens: int | None = None, threshold: float | None = None, **params):
        """Token ids of each answer, and why it ended."""
        extra = None if threshold is None else {"confidence_threshold": threshold}
        # What a request does not say is the checkpoint's: for these classes, get_default_sampling_params.
        given = self.llm.get_default_sampling_params()
        given.detokenize, given.extra_args = False, extra
        given.max_tokens = max_tokens or given.max_tokens
        for name, value in params.items():
            setattr(given, name, value)
        found = self.llm.generate([{"prompt_token_ids": p} for p in prompts], given, use_tqdm=False)
        return [list(one.outputs[0].token_ids) for one in found], [one.outputs[0].finish_reason for one in found]

    def metric(self, name: str) -> float:
        return next(metric.value for metric in self.llm.get_metrics() if metric.name == f"vllm:{name}")


@pytest.fixture(scope="module", params=MODES)
def engine(request, tmp_path_factory):
    started = Engine(request.param, tmp_path_factory.mktemp(request.param))
    yield started
    del started.llm
    gc.collect()
    cleanup_dist_env_and_memory()


def test_what_vllm_runs_at_a_start_on_a_gpu(engine):
    """It measures the memory of a step and warms up its kernels, which it leaves out on a CPU; answers are unchanged.

    The first of this file: a start has every request slot free.
    """
    worker = engine.llm.llm_engine.model_executor.driver_worker.worker
    worker.model_runner.profile_run()
    warmup_kernels(worker.model_runner, worker.execute_model, worker.sample_tokens)
    prompts = prompts_of((20, 33))
    assert engine.answers(prompts)[0] == engine_answers(engine.folder, prompts)


def test_ragged_prompts_twice(engine):
    """Tails within a block, more requests than slots; the second time with whatever the prefix cache has."""
    prompts = prompts_of(LENGTHS)
    expected, eos = engine_answers(engine.folder, prompts), ENDS[engine.backbone]
    assert {eos in answer for answer in expected} == {True, False}
    for _ in range(2):
        found, reasons = engine.answers(prompts)
        assert found == expected
        assert reasons == ["stop" if eos in answer else "length" for answer in expected]
    if engine.backbone == "illada":
        assert engine.metric("num_preemptions") > 0
    if engine.backbone == "llada":
        assert engine.metric("prefix_cache_hits") > 0


def test_answers_in_later_prompts(engine):
    """As in a conversation: pages that answers filled are read by the next request."""
    prompts = prompts_of((40, 29, 64))
    answers, _ = engine.answers(prompts, ignore_eos=True)
    assert answers == engine_answers(engine.folder, prompts, stop_at_eos=False)
    longer = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
    longer += [[*row, 5, 6, 7] for row in longer]
    assert engine.answers(longer)[0] == engine_answers(engine.folder, longer)


def test_the_end_of_the_context(engine):
    room = (CONTEXT - BLOCK, CONTEXT - BLOCK - 3, CONTEXT - 2 * BLOCK - 1, CONTEXT - 2 * BLOCK)
    prompts = prompts_of(room)
    expected = engine_answers(engine.folder, prompts, gen_length=BLOCK, stop_at_eos=False)
    assert engine.answers(prompts, max_tokens=BLOCK, ignore_eos=True)[0] == expected
    # A request that asks for more than there is gets what there is: here the last block's end is the context's.
    more = [engine_answers(engine.folder, [p], gen_length=2 * BLOCK, stop_at_eos=False)[0] for p in prompts[3:]]
    assert engine.answers(prompts[3:], max_tokens=1000, ignore_eos=True)[0] == more


@pytest.mark.parametrize("threshold", [0.1, 1.0])
def test_thresholds_of_a_request(engine, threshold):
    prompts = prompts_of((9, 20, 33))
    expected = engine_answers(engine.folder, prompts, threshold=threshold)
    assert engine.answers(prompts, threshold=threshold)[0] == expected


def test_sampling(engine):
    """At a temperature the random numbers are the engine's; greedy requests beside it stay greedy."""
    prompts = prompts_of((5, 18, 32))
    hot = SamplingParams(temperature=0.8, seed=3, max_tokens=48, detokenize=False)
    cold = SamplingParams(temperature=0.0, seed=3, max_tokens=48, detokenize=False)
    if engine.backbone == "illada":
        prompts = prompts[:1]  # a preempted request starts its random numbers anew
    asked = [{"prompt_token_ids": p} for p in prompts for _ in range(2)]
    outputs = engine.llm.generate(asked, [hot, cold] * len(prompts), use_tqdm=False)
    found = [list(one.outputs[0].token_ids) for one in outputs]
    assert found[::2] == engine_answers(engine.folder, prompts, temperature=0.8, seed=3)
    assert found[1::2] == engine_answers(engine.folder, prompts)


def test_answers_of_any_length(engine):
    """Nothing but the answer's end tells two lengths apart: an answer in one block is what a canvas of that size gives."""
    prompt = prompts_of((32,))[0]
    for length in (1, 7):
        found = engine.answers([prompt], max_tokens=length, ignore_eos=True)[0][0]
        assert len(found) == length
    whole = engine.answers([prompt], max_tokens=2 * BLOCK, ignore_eos=True)[0][0]
    assert engine.answers([prompt], max_tokens=BLOCK + 5, ignore_eos=True)[0][0][:BLOCK] == whole[:BLOCK]
