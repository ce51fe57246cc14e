"""Block-causal LLaDA, Dream and iLLaDA students on vLLM's diffusion path. vLLM finds this by its entry point."""


def register() -> None:
    """Tell vLLM of the configurations, the model, its settings and which requests it takes."""
    from transformers import AutoConfig
    from vllm import ModelRegistry
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP

    from cd4lm_vllm.configs import SERVED
    from cd4lm_vllm.requests import take_over_validation
    from cd4lm_vllm.settings import BlockSettings

    for architecture, config in SERVED.items():
        AutoConfig.register(config.model_type, config, exist_ok=True)
        ModelRegistry.register_model(architecture, "cd4lm_vllm.model:BlockCausalLM")
        MODELS_CONFIG_MAP[architecture] = BlockSettings
    take_over_validation()
