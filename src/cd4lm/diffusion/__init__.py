"""The mathematics of masked diffusion as pure functions of tensors; imports torch and nothing else."""
