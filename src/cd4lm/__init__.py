"""CD4LM: discrete-space consistency distillation and confidence-adaptive decoding for masked diffusion language models."""
