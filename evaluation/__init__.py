"""Evaluation: scoring, statistics, and the comparison of models and decoders."""
