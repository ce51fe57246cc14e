"""LLaDA as a model of lm-eval, over this repository's decode loop, and the tasks of the published evaluation."""
