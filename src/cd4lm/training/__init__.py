"""Training: the DSCD student, the masked-diffusion teacher, and what they share."""
