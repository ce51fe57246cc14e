"""Scoring and statistics; standard library only, so that results can be checked anywhere."""
