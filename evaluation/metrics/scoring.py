"""Which metric belongs to a task, and scoring many responses at once."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from evaluation.metrics import gsm8k, humaneval, math500, mbpp
from evaluation.metrics.verdict import Verdict

METRICS = {"gsm8k": gsm8k, "math500": math500, "humaneval": humaneval, "mbpp": mbpp}
RUNS_CODE = ("humaneval", "mbpp")


def metric_of(task: str) -> str:
    """The metric of a task: its name, or the part before _plus, _pass5 and the like. Raises ValueError if unknown."""
    name = task.split("_")[0]
    if name not in METRICS:
        raise ValueError(f"no metric for task {task!r}: its name must start with one of {', '.join(METRICS)}")
    return name


def judge(
    task: str, doc: dict, response: str, *, protocol: str = "default", confirm_run_unsafe_code: bool = False
) -> Verdict:
    """Outcome of one response; confirm_run_unsafe_code concerns only tasks that run code."""
    name = metric_of(task)
    if name in RUNS_CODE:
        return METRICS[name].judge(doc, response, protocol=protocol, confirm_run_unsafe_code=confirm_run_unsafe_code)
    return METRICS[name].judge(doc, response, protocol=protocol)


def judge_all(
    task: str,
    pairs: Iterable[tuple[dict, str]],
    *,
    protocol: str = "default",
    confirm_run_unsafe_code: bool = False,
    workers: int = 2,
) -> Iterator[Verdict]:
    """Outcomes of (doc, response) pairs in their order, as they come; programs run `workers` at a time."""

    def one(pair: tuple[dict, str]) -> Verdict:
        return judge(task, *pair, protocol=protocol, confirm_run_unsafe_code=confirm_run_unsafe_code)

    if metric_of(task) not in RUNS_CODE:
        yield from map(one, pairs)
        return
    with ThreadPoolExecutor(workers) as pool:
        yield from pool.map(one, pairs)
