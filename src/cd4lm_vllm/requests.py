"""Which sampling parameters a request may have, and what is said of the others (HTTP 400)."""

from vllm.config import ModelConfig
from vllm.exceptions import VLLMValidationError
from vllm.sampling_params import SamplingParams

from cd4lm_vllm.configs import Served

THRESHOLD = "confidence_threshold"
# What vLLM itself keeps among the extra arguments.
TRANSFERS = ("kv_transfer_params", "ec_transfer_params")
# Parameters that would change what is sampled, with the value that asks for nothing.
NEUTRAL = {
    "top_p": (1.0,),
    "top_k": (0, -1),
    "min_p": (0.0,),
    "min_tokens": (0,),
    "presence_penalty": (0.0,),
    "frequency_penalty": (0.0,),
    "repetition_penalty": (1.0,),
    "logit_bias": (None, {}),
    "bad_words": (None, []),
    "allowed_token_ids": (None, []),
    "logprobs": (None,),
    "prompt_logprobs": (None,),
    "logprob_token_ids": (None, []),
    "prompt_logprob_token_ids": (None,),
    "thinking_token_budget": (None,),
}


def check_request(params: SamplingParams) -> None:
    """Raise VLLMValidationError for a parameter that a block-causal student cannot honour."""
    for name, neutral in NEUTRAL.items():
        given = getattr(params, name)
        if not any(given is value or given == value for value in neutral):
            raise VLLMValidationError(
                f"{name}={given} is not supported by block-causal students, which take temperature, seed, max_tokens, "
                f"stop and {THRESHOLD}: leave it out",
                parameter=name,
            )
    for name, value in (params.extra_args or {}).items():
        if name == THRESHOLD:
            check_threshold(value)
        elif name not in TRANSFERS:
            raise VLLMValidationError(f"unknown argument {name}: the only one is {THRESHOLD}", parameter=name)


def check_threshold(value) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
        raise VLLMValidationError(
            f"{THRESHOLD}={value!r} is not a probability: use a number in (0, 1]", parameter=THRESHOLD
        )


def take_over_validation() -> None:
    """Let our models take temperatures and seeds, which vLLM refuses for every diffusion model.

    Its check has no hook; it stays as it is for all other models.
    """
    theirs = SamplingParams._validate_diffusion
    if getattr(theirs, "knows_block_causal_students", False):
        return

    def validate(self, model_config: ModelConfig) -> None:
        check_request(self) if isinstance(model_config.hf_config, Served) else theirs(self, model_config)

    validate.knows_block_causal_students = True
    SamplingParams._validate_diffusion = validate
