"""An engine's settings for a checkpoint: what is taken from it, and what is refused before a weight is read."""

import math
import sys
from pathlib import Path

from vllm.config import ModelConfig, VllmConfig
from vllm.config.compilation import CUDAGraphMode
from vllm.config.diffusion import DiffusionConfig
from vllm.model_executor.models.config import VerifyAndUpdateConfig

from cd4lm.config import require
from cd4lm.data.examples import check_token_ids, end_ids
from cd4lm.decoding.options import FILE, Decoder, DecodingOptions
from cd4lm.model.checkpoint import local_folder
from cd4lm.model.loading import load_config, tokenizer_for_inference

SERVERS = ("vllm", "api_server.py")  # what sys.argv[0] is where vLLM is a command rather than a library


class BlockSettings(VerifyAndUpdateConfig):
    """vLLM's hook for the settings of our architectures."""

    @classmethod
    def verify_and_update_config(cls, vllm_config: VllmConfig) -> None:
        try:
            refuse(vllm_config)
            settle(vllm_config)
        except ValueError as error:
            # vLLM would print two tracebacks and the setting in full around it.
            if Path(sys.argv[0]).name in SERVERS:
                raise SystemExit(f"error: {error}") from None
            raise


def decoder_of(model: ModelConfig) -> Decoder:
    """How a checkpoint decodes, by its generation settings. Raises ValueError for what cannot be served."""
    folder, config = local_folder(model.model, weights=False, hub={"revision": model.revision}), model.hf_config
    load_config(folder)
    b, stored = config.block_length, DecodingOptions.stored(folder)
    require(
        stored.block_length in (None, b),
        f"{folder / FILE}: block_length={stored.block_length}, but the checkpoint has blocks of {b}: correct it",
    )
    require(
        stored.policy in (None, "cad"),
        f"{folder / FILE}: policy={stored.policy} is not served: use cad, for instance with confidence_threshold=0.9",
    )
    if model.skip_tokenizer_init:
        ends = (config.eos_token_id,)
    else:
        tokenizer = tokenizer_for_inference(folder)
        check_token_ids(config, tokenizer)
        ends = end_ids(tokenizer)
    length = 256 // b * b or b if stored.gen_length is None else stored.gen_length
    return DecodingOptions(gen_length=length, block_length=b).decoder(config, ends, stored)


def refuse(vllm_config: VllmConfig) -> None:
    """Raise ValueError for a checkpoint or an option that this path does not serve."""
    model, config = vllm_config.model_config, vllm_config.model_config.hf_config
    require(
        config.attention == "block_causal",
        f"{model.model} is bidirectional, and only block-causal students are served (docs/serving.md): decode it with "
        "scripts/LLaDA_generate_dynamic.py, or train a student with block_causal={block_length: 32, grid: absolute}",
    )
    require(
        config.block_grid == "absolute",
        f"{model.model} counts its blocks from the answer (block_grid={config.block_grid!r}), a server's pages from "
        "position 0: train the student with block_causal.grid=absolute",
    )
    unsupported = {
        "--speculative-config": vllm_config.speculative_config,
        "--enable-lora (merge the adapter with python -m cd4lm.training.export)": vllm_config.lora_config,
        "--quantization": model.quantization,
        "a structured output backend": vllm_config.structured_outputs_config.backend != "auto",
        "--enable-prompt-embeds": model.enable_prompt_embeds,
        "--logits-processors": model.logits_processors,
        "context parallelism": max(
            vllm_config.parallel_config.decode_context_parallel_size,
            vllm_config.parallel_config.prefill_context_parallel_size,
        )
        > 1,
        "batch-sharded sampling": vllm_config.parallel_config.enable_batch_sharded_sampling,
        "dual batch overlap": vllm_config.parallel_config.use_ubatching,
        "--scheduler-cls": vllm_config.scheduler_config.scheduler_cls,
    }
    for option, given in unsupported.items():
        require(not given, f"block-causal students are served without {option}: leave it out")
    given = vllm_config.diffusion_config
    require(
        given is None or given.canvas_length == config.block_length,
        f"--diffusion-config: the checkpoint's canvas_length is {config.block_length}: leave it out",
    )
    mode = vllm_config.compilation_config.cudagraph_mode
    require(
        model.enforce_eager or mode is None or not CUDAGraphMode(mode).has_full_cudagraphs(),
        f"full CUDA graphs ({mode}) hold no block-causal attention: leave cudagraph_mode out, use PIECEWISE, or add "
        "--enforce-eager",
    )
    budget, longest = vllm_config.scheduler_config, config.block_length
    for name in ("max_num_batched_tokens", "long_prefill_token_threshold"):
        tokens = vars(budget)[name]
        require(not 0 < tokens < longest, f"{name}={tokens} is less than a block of {longest}: raise it")


def settle(vllm_config: VllmConfig) -> None:
    """Set what follows from the checkpoint."""
    model, b = vllm_config.model_config, vllm_config.model_config.hf_config.block_length
    decoding = decoder_of(model).config
    for name, value in {"temperature": decoding.temperature, "max_new_tokens": decoding.gen_length}.items():
        model.override_generation_config.setdefault(name, value)
    vllm_config.diffusion_config = DiffusionConfig(canvas_length=b)
    vllm_config.attention_config.use_non_causal = True
    vllm_config.scheduler_config.scheduler_cls = "cd4lm_vllm.scheduler.block_scheduler"
    if vllm_config.compilation_config.cudagraph_mode is None:
        vllm_config.compilation_config.cudagraph_mode = CUDAGraphMode.PIECEWISE
    require(
        model.max_model_len >= b,
        f"max_model_len={model.max_model_len} is less than a block of {b}: raise --max-model-len",
    )
    model.max_model_len -= model.max_model_len % b  # a canvas never reaches past the context
    set_page(vllm_config, b)


def set_page(vllm_config: VllmConfig, b: int) -> None:
    """Make the cache's pages multiples of a block: the keys of half a block depend on its other half."""
    cache = vllm_config.cache_config
    if cache.user_specified_block_size:
        require(
            cache.block_size % b == 0,
            f"--block-size {cache.block_size} is no multiple of the checkpoint's blocks of {b}: use "
            f"{math.lcm(b, 16)} or leave it out",
        )
    elif 16 % b:  # smaller blocks divide whatever page a platform chooses
        # Kernels take pages in multiples of 16, on a CPU of 32; 128 is what a CPU has without being told.
        cache.block_size = 128 if 128 % b == 0 else math.lcm(b, 32)
        cache.user_specified_block_size = True
