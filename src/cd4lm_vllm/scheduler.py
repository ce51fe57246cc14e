"""vLLM's diffusion schedulers, with prompts computed in whole blocks and canvases whole: every forward starts on the grid.

A canvas is never cut at the end of the context: the worker knows where each answer ends and looks no further (state.py).
"""

from vllm.config import VllmConfig
from vllm.v1.core.sched.diffusion_scheduler import DiffusionAsyncScheduler, DiffusionScheduler
from vllm.v1.request import Request

from cd4lm_vllm.settings import decoder_of


class WholeBlocks:
    """What both schedulers do differently."""

    def __init__(self, vllm_config: VllmConfig, *args, **kwargs):
        super().__init__(vllm_config, *args, **kwargs)
        for page in (self.block_size, self.hash_block_size):
            if page % self.num_spec_tokens:
                raise ValueError(f"the cache's pages of {page} tokens are no multiple of {self.num_spec_tokens}")
        self.need_mamba_block_aligned_split = True  # the scheduler's hook for splits that a model cannot take
        self.context = self.max_model_len
        self.end_ids = decoder_of(vllm_config.model_config).config.eos_ids
        # It counts a canvas as computed while that is still being denoised, up to one for each batch in flight and the
        # prompt's tail; cutting the next one short on that account would change what the worker computes.
        self.max_model_len += self.num_spec_tokens * (vllm_config.max_concurrent_batches + 1)

    def add_request(self, request: Request) -> None:
        params = request.sampling_params
        if params is not None:
            request.max_tokens = min(request.max_tokens, self.context - request.num_prompt_tokens)
            params.max_tokens = request.max_tokens
            if not params.ignore_eos:
                params.stop_token_ids = list(dict.fromkeys((*(params.stop_token_ids or ()), *self.end_ids)))
        super().add_request(request)

    def _mamba_block_aligned_split(self, request: Request, num_new_tokens: int, *cached: int) -> int:
        b, before = self.num_spec_tokens, request.num_computed_tokens + sum(cached)
        if before >= request.num_tokens:  # a canvas: whole, or later
            return num_new_tokens if num_new_tokens >= b else 0
        return num_new_tokens if before + num_new_tokens >= request.num_tokens else num_new_tokens // b * b


class BlockScheduler(WholeBlocks, DiffusionScheduler):
    pass


class AsyncBlockScheduler(WholeBlocks, DiffusionAsyncScheduler):
    pass


def block_scheduler(vllm_config: VllmConfig, *args, **kwargs) -> WholeBlocks:
    """The scheduler for a configuration; whether it is asynchronous is settled after a model's settings are."""
    kind = AsyncBlockScheduler if vllm_config.scheduler_config.async_scheduling else BlockScheduler
    return kind(vllm_config, *args, **kwargs)
