"""Data: rows of question and answer, their tokens, and the embedded task."""
