"""Scoring answers as they come, each once, so that the progress bar, lm-eval and the results agree."""

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from evaluation.dllm_eval.answers import fingerprint
from evaluation.metrics.sandbox import SandboxError
from evaluation.metrics.scoring import RUNS_CODE, judge, metric_of
from evaluation.metrics.verdict import Scoring, Verdict

PREFIX = "dllm_"


def is_ours(task: str) -> bool:
    """Whether a task is one of this repository's, scored by evaluation/metrics."""
    return task.startswith(PREFIX)


class Scorer:
    """Verdicts of our tasks' answers; programs run in the background while the model decodes on."""

    def __init__(self, protocol: str, confirm_run_unsafe_code: bool, processes: int = 1):
        self.protocol, self.confirmed = protocol, confirm_run_unsafe_code
        self.pool = ThreadPoolExecutor(max(1, (os.cpu_count() or 2) // (2 * processes)))
        self.verdicts: dict[str, Future] = {}

    def submit(self, task: str, doc: dict, responses: list[str]) -> list[Future]:
        """Verdicts, begun or already there, of every response to a row."""
        return [self._one(task.removeprefix(PREFIX), doc, response) for response in responses]

    def _one(self, task: str, doc: dict, response: str) -> Future:
        key = fingerprint(task, doc, response)
        if key not in self.verdicts:
            if metric_of(task) in RUNS_CODE:
                self.verdicts[key] = self.pool.submit(self.verdict, task, doc, response)
            else:  # math-verify's time limit is a signal, which only the main thread can take
                self.verdicts[key] = Future()
                self.verdicts[key].set_result(self.verdict(task, doc, response))
        return self.verdicts[key]

    def verdict(self, task: str, doc: dict, response: str) -> Verdict:
        try:
            return judge(task, doc, response, Scoring(self.protocol, self.confirmed))
        except SandboxError as error:
            raise ValueError(f"the sandbox for generated programs does not work here: {error}") from error

    def process_results(self, task: str) -> Callable[[dict, list], dict]:
        """lm-eval's scoring hook of a task: 1 if any of a row's responses is right (pass@k with n = k), else 0."""

        def right(doc: dict, results: list) -> dict:
            responses = results[0] if isinstance(results[0], list) else results
            return {"right": int(any(v.result().right for v in self.submit(task, doc, responses)))}

        return right
