"""Finding tasks by name: ours, with data from the hub or a local folder, and lm-eval's own."""

import difflib
import logging
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import datasets
import pyarrow
from jinja2 import meta
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml
from lm_eval.utils import env

from cd4lm.config import require
from cd4lm.data.rows import read_rows
from evaluation.dllm_eval import stock
from evaluation.dllm_eval.options import PREFIX, SAMPLING_TEMPERATURE, is_ours
from evaluation.dllm_eval.scoring import METRIC_LIST, Judge
from evaluation.metrics.mbpp import TEST_IDS
from evaluation.metrics.scoring import check_rows
from evaluation.metrics.verdict import PROTOCOLS as SCORINGS
from evaluation.protocol import Benchmark, Protocol

FOLDER = Path(__file__).parent / "tasks"
# lm-eval advises on --metadata, an option of its own command.
logging.getLogger("lm_eval.api.task").addFilter(lambda record: "--metadata" not in record.getMessage())
OURS = sorted(path.stem for path in FOLDER.glob(f"{PREFIX}*.yaml"))


def mbpp_test_split(docs):
    """The published test items of a file or a split that may hold more. Raises ValueError if there are none."""
    found = docs.filter(lambda row: row["task_id"] in TEST_IDS)
    first, last = TEST_IDS[0], TEST_IDS[-1]
    require(
        len(found) > 0, f"mbpp: no row has a task_id from {first} to {last}, the published test split: take that file"
    )
    return found


def read_task(name: str) -> dict:
    """The YAML of one of our tasks."""
    return load_yaml(FOLDER / f"{name}.yaml", resolve_func=True)


def local_file(task: str, data_dir: Path) -> Path:
    """The file of a task's rows in a local folder. Raises ValueError if it is not there."""
    path = data_dir / read_task(task)["metadata"]["file"]
    require(
        path.is_file(),
        f"{path} does not exist: --data_dir must hold it for {task} (or leave --data_dir out for the hub)",
    )
    return path


def columns_of(task: dict) -> set[str]:
    """The columns that a task's prompt and target are made of, and the one that its split is chosen by."""
    templates = task["doc_to_text"] + task["doc_to_target"]
    return meta.find_undeclared_variables(env.parse(templates)) | ({"task_id"} if "process_docs" in task else set())


def data_of(name: str, task: dict, data_dir: Path | None) -> datasets.DatasetDict:
    """The rows of one of our tasks, each checked. Raises ValueError with the file, the row and what is wrong with it."""
    source = task["dataset_path"]
    if data_dir is None:
        found = datasets.load_dataset(source, task.get("dataset_name"))
        rows = found["test"]
    else:
        source = local_file(name, data_dir)
        rows = list(read_rows(source))
        found = datasets.DatasetDict()
    require(len(rows) > 0, f"{source} holds no rows: check the file")
    check_columns(rows, columns_of(task), source, f"{name} needs rows as {task['dataset_path']} has them")
    check_rows(name.removeprefix(PREFIX), ((f"{source} row {number}", row) for number, row in enumerate(rows, start=1)))
    if data_dir is not None:
        found["test"] = table(rows, source)
    return found


def check_columns(rows: Iterable[dict], columns: set[str], source: str | Path, needs: str) -> None:
    """Raise ValueError naming the first row that has nothing in one of the columns."""
    for number, row in enumerate(rows, start=1):
        filled = {column for column in row if row[column] not in (None, "")}
        lacking = ", ".join(sorted(columns - filled))
        require(
            not lacking,
            f"{source} row {number} has nothing in column {lacking}, only in {', '.join(sorted(filled)) or 'none'}: {needs}",
        )


def table(rows: list[dict], source: Path) -> datasets.Dataset:
    """Rows as lm-eval's data set. Raises ValueError for a column that holds values of different types."""
    columns = dict.fromkeys(column for row in rows for column in row)
    try:
        return datasets.Dataset.from_dict({column: [row.get(column) for row in rows] for column in columns})
    except (pyarrow.ArrowException, OverflowError) as error:
        for column in columns:
            kinds = [(number, type(row[column])) for number, row in enumerate(rows, start=1) if column in row]
            number, kind = next((k for k in kinds if k[1] not in (kinds[0][1], type(None))), kinds[0])
            require(
                kind is kinds[0][1],
                f"{source} row {number} has {kind.__name__} in column {column!r}, unlike row 1: repair it",
            )
        raise ValueError(
            f"{source} has a column of different types ({str(error).splitlines()[0]}): repair it"
        ) from error


def our_task(name: str, data_dir: Path | None, samples: int, judge: Judge) -> dict:
    """The configuration of one of our tasks: its YAML, its scoring, and its checked data."""
    task = read_task(name)
    data = data_of(name, task, data_dir)
    task |= {
        "process_results": judge.process_results(name),
        "metric_list": METRIC_LIST,
        "custom_dataset": lambda **_: data,
    }
    if samples > 1:
        task["generation_kwargs"] |= {"do_sample": True, "temperature": SAMPLING_TEMPERATURE}
        every = [{"name": "none", "filter": [{"function": "take_first_k", "k": samples}]}]
        task |= {"repeats": samples, "filter_list": every}
    return task


@cache
def every_task() -> TaskManager:
    """A manager of our tasks and all of lm-eval's."""
    return TaskManager(include_path=str(FOLDER))


def task_manager(names: list[str], include_path: Path | None, protocol: Protocol) -> TaskManager:
    """A manager that knows the names. Raises ValueError for one that does not exist, naming the nearest.

    lm-eval's own tasks are only indexed, which takes seconds, where a name is not found without them.
    """
    folders = [str(folder) for folder in (FOLDER, include_path) if folder is not None]
    manager = TaskManager(include_path=folders, include_defaults=False)
    if any(not is_ours(name) and name not in manager.all_tasks for name in names):
        manager = every_task() if include_path is None else TaskManager(include_path=folders)
    for name in names:
        if (is_ours(name) and name not in OURS) or (name not in manager.all_tasks and not Path(name).is_file()):
            close = difflib.get_close_matches(name, [*OURS, *manager.all_tasks], n=1, cutoff=0.5)
            hint = f"did you mean {close[0]}?" if close else f"this repository's are {', '.join(OURS)}"
            raise ValueError(f"unknown task {name}: {hint}")
        if PREFIX + name in OURS and protocol.of(name) is None:
            print(f"note: {name} is lm-eval's task; this repository's is {PREFIX + name}", file=sys.stderr)
    return manager


def load(
    names: list[str], data_dir: Path | None, include_path: Path | None, samples: int, judge: Judge, protocol: Protocol
) -> tuple[dict, dict[str, list[str]]]:
    """lm-eval's dictionary of tasks and groups, and the tasks that each of lm-eval's names in the protocol stands for.

    Raises ValueError where a data set cannot be had, or a task runs programs without the user's consent.
    """
    manager = task_manager(names, include_path, protocol)
    members = {name: stock.members(manager, name) for name in names if not is_ours(name) and protocol.of(name)}
    try:
        with stock.programs_in_the_sandbox(manager, names, judge.scoring):
            specs = []
            for name in names:
                if is_ours(name):
                    specs.append(our_task(name, data_dir, samples, judge))
                elif name in members and data_dir is not None:
                    specs += [local_task(manager, member, data_dir, protocol.of(name)) for member in members[name]]
                else:
                    specs.append(name)
            return manager.load(specs), members
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"the data of {', '.join(names)} cannot be loaded ({error}): check the network, or pass --data_dir"
        ) from error


def stock_files(benchmark: Benchmark, data_dir: Path) -> None:
    """Raise ValueError unless a folder has the rows of one of lm-eval's own tasks; one file where it has several."""
    pattern = data_dir / benchmark.files["test"].replace("{subset}", "*")
    found = any(pattern.parent.glob(pattern.name)) if pattern.parent.is_dir() else False
    require(found, f"{pattern} does not exist: --data_dir must hold it for {benchmark.task}")


def local_task(manager: TaskManager, name: str, data_dir: Path, benchmark: Benchmark) -> dict:
    """The configuration of one of lm-eval's own tasks with the rows of local files, each checked."""
    task = load_yaml(manager.task_index[name].yaml_path, resolve_func=True)
    data = datasets.DatasetDict()
    for split, pattern in benchmark.files.items():
        source = data_dir / pattern.replace("{subset}", str(task.get("dataset_name")))
        if (
            split != "test" and not source.is_file()
        ):  # lm-eval asks for the split of its examples even where it takes none
            require(benchmark.num_fewshot == 0, f"{source} does not exist: the examples of {name} come from it")
            data[split] = data["test"].select([])
            continue
        require(source.is_file(), f"{source} does not exist: --data_dir must hold it for {name}")
        rows = list(read_rows(source))
        if benchmark.task_ids is not None:
            first, last = benchmark.task_ids
            rows = [row for row in rows if first <= row["task_id"] <= last]
        require(bool(rows), f"{source} holds no rows of {name}: check the file")
        check_columns(rows, set(benchmark.columns), source, f"{name} needs rows as {task['dataset_path']} has them")
        stock.check_marks(rows, benchmark.columns, source)
        if benchmark.score in SCORINGS:
            check_rows(name, ((f"{source} row {number}", row) for number, row in enumerate(rows, start=1)))
        data[split] = table(rows, source)
    return task | {"custom_dataset": lambda **_: data}
