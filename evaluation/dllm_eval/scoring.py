"""What a response of our tasks is worth and cost, as lm-eval's metrics; and the progress bar."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from lm_eval.api.instance import Instance
from tqdm import tqdm

from cd4lm.io import fingerprint
from evaluation.dllm_eval.answers import Answer, Response
from evaluation.dllm_eval.options import PREFIX, is_ours
from evaluation.metrics.scoring import judge
from evaluation.metrics.verdict import Scoring, Verdict


class Judge:
    """Verdicts on responses, each made once, in threads: programs run while the model decodes on."""

    def __init__(self, scoring: Scoring):
        self.scoring = scoring
        self.pool = ThreadPoolExecutor(scoring.workers)
        self.verdicts: dict[str, Future] = {}

    def submit(self, task: str, doc: dict, response: str) -> Future:
        """The verdict on a response, begun or already there; its result() raises what judging raised."""
        key = fingerprint(task, doc, response)
        if key not in self.verdicts:
            self.verdicts[key] = self.pool.submit(judge, task.removeprefix(PREFIX), doc, response, self.scoring)
        return self.verdicts[key]

    def process_results(self, task: str) -> Callable[[dict, list], dict]:
        """lm-eval's scoring function of a task; a closure, since lm-eval copies the task's configuration."""

        def measures_of(doc: dict, results: list) -> dict:
            responses = results[0] if isinstance(results[0], list) else results
            return measures(responses, [v.result() for v in [self.submit(task, doc, r) for r in responses]])

        return measures_of


def counts(documents: Sequence[list[str]]) -> dict[str, int]:
    """How many responses had each outcome."""
    return dict(sorted(Counter(outcome for outcomes in documents for outcome in outcomes).items()))


def found(answers: Sequence[str | None]) -> int:
    """Documents from which an answer could be extracted."""
    return sum(answer is not None for answer in answers)


# A document's measures, and how lm-eval sums them up over the documents.
AGGREGATIONS = {
    **dict.fromkeys(("right", "nfe", "tokens", "seconds", "truncated"), "mean"),
    "outcomes": counts,
    "answer": found,
    **dict.fromkeys(("clock", "session", "rank"), max),
}
METRIC_LIST = [
    {"metric": name, "aggregation": how, "higher_is_better": name in ("right", "answer")}
    for name, how in AGGREGATIONS.items()
]


def measures(responses: Sequence[Response], verdicts: Sequence[Verdict]) -> dict:
    """A document's measures. Several responses: right if one is (pass@k with n = k), costs are means, clock the last's."""
    costs = [response.cost for response in responses]
    last = max(costs, key=lambda cost: (cost.session, cost.clock))
    return {
        "right": any(verdict.right for verdict in verdicts),
        **{name: mean([vars(cost)[name] for cost in costs]) for name in ("nfe", "tokens", "seconds", "truncated")},
        "outcomes": [verdict.outcome for verdict in verdicts],
        "answer": next((verdict for verdict in verdicts if verdict.right), verdicts[0]).answer,
        **{name: vars(last)[name] for name in ("clock", "session", "rank")},
    }


def mean(values: Sequence):
    """The mean; a single value stays what it is."""
    return values[0] if len(values) == 1 else sum(values) / len(values)


class Progress:
    """The progress bar: accuracy over the documents scored so far (programs lag behind), mean NFE per response."""

    def __init__(self, judge: Judge, show: bool):
        self.judge, self.show = judge, show
        self.nfe: list[int] = []
        self.verdicts: dict[tuple[str, int, int], list[Future]] = defaultdict(list)  # by task, doc_id and repeats

    def start(self, total: int) -> None:
        self.bar = tqdm(total=total, unit="answer", disable=not self.show, dynamic_ncols=True)

    def add(self, instance: Instance, answer: Answer) -> None:
        """Count an answer and have it judged, if its task is ours."""
        if isinstance(answer, Response):
            self.nfe.append(answer.cost.nfe)
            if is_ours(instance.task_name):
                verdict = self.judge.submit(instance.task_name, instance.doc, answer)
                self.verdicts[instance.task_name, instance.doc_id, instance.repeats].append(verdict)
        self.bar.set_postfix(self.so_far(), refresh=False)
        self.bar.update()

    def so_far(self) -> dict[str, str]:
        judged = {place: [f.result().right for f in own if f.done()] for place, own in self.verdicts.items()}
        right = [any(own) for (*_, repeats), own in judged.items() if len(own) == repeats]
        shown = {"accuracy": f"{sum(right) / len(right):.1%} of {len(right)}"} if right else {}
        return shown | ({"NFE": f"{sum(self.nfe) / len(self.nfe):.1f}"} if self.nfe else {})

    def stop(self) -> None:
        self.bar.set_postfix(self.so_far())
        self.bar.close()
