"""Scoring: what a response is worth, for each benchmark, and the command that scores a finished run again."""
