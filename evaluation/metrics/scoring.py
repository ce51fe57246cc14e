"""Which metric belongs to a task, and scoring many responses at once."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from evaluation.metrics import gsm8k, humaneval, math500, mbpp
from evaluation.metrics.verdict import DEFAULT, Scoring, Verdict

METRICS = {"gsm8k": gsm8k, "math500": math500, "humaneval": humaneval, "mbpp": mbpp}
RUNS_CODE = ("humaneval", "mbpp")


def metric_of(task: str) -> str:
    """The metric of a task: its name, or the part before _plus, _pass5 and the like. Raises ValueError if unknown."""
    name = task.split("_")[0]
    if name not in METRICS:
        raise ValueError(f"no metric for task {task!r}: its name must start with one of {', '.join(METRICS)}")
    return name


def check_rows(task: str, rows: Iterable[tuple[str, dict]], remedy: str = "repair or remove it") -> None:
    """Raise ValueError for the first row that cannot be scored; rows come with the file and number that name them."""
    for place, row in rows:
        try:
            METRICS[metric_of(task)].check(row)
        except ValueError as error:
            raise ValueError(f"{place} {error}: {remedy}") from error


def judge(task: str, doc: dict, response: str, scoring: Scoring = DEFAULT) -> Verdict:
    """Outcome of one response to a row of a task's data set."""
    return METRICS[metric_of(task)].judge(doc, response, scoring)


def judge_all(task: str, pairs: Iterable[tuple[dict, str]], scoring: Scoring = DEFAULT) -> Iterator[Verdict]:
    """Outcomes of (doc, response) pairs in their order, as they come; programs run scoring.workers at a time."""
    metric = METRICS[metric_of(task)]
    if metric_of(task) not in RUNS_CODE:
        yield from (metric.judge(doc, response, scoring) for doc, response in pairs)
        return
    with ThreadPoolExecutor(scoring.workers) as pool:
        yield from pool.map(lambda pair: metric.judge(*pair, scoring), pairs)
