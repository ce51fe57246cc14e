"""Scoring and statistics; standard library only (but for math-verify), so that results can be checked anywhere."""
