"""Finding tasks by name: ours, with data from the hub or a local folder, and lm-eval's own."""

import difflib
import sys
from pathlib import Path

from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from cd4lm.config import require
from evaluation.dllm_eval.options import PREFIX, SAMPLING_TEMPERATURE, is_ours
from evaluation.dllm_eval.scoring import METRIC_LIST, Judge
from evaluation.metrics.mbpp import TEST_IDS

FOLDER = Path(__file__).parent / "tasks"
OURS = sorted(path.stem for path in FOLDER.glob(f"{PREFIX}*.yaml"))


def mbpp_test_split(docs):
    """The published test items of a file or a split that may hold more."""
    return docs.filter(lambda row: row["task_id"] in TEST_IDS)


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


def our_task(name: str, data_dir: Path | None, samples: int, judge: Judge) -> dict:
    """The configuration of one of our tasks: its YAML, its scoring, and where its data lies."""
    task = read_task(name)
    task |= {"process_results": judge.process_results(name), "metric_list": METRIC_LIST}
    if data_dir is not None:
        data = {"data_files": {"test": str(local_file(name, data_dir))}}
        task |= {"dataset_path": "json", "dataset_name": None, "dataset_kwargs": data}
    if samples > 1:
        task["generation_kwargs"] |= {"do_sample": True, "temperature": SAMPLING_TEMPERATURE}
        every = [{"name": "none", "filter": [{"function": "take_first_k", "k": samples}]}]
        task |= {"repeats": samples, "filter_list": every}
    return task


def task_manager(names: list[str], include_path: Path | None) -> TaskManager:
    """A manager that knows the names. Raises ValueError for one that does not exist, naming the nearest.

    lm-eval's own tasks are only indexed, which takes seconds, where a name is not found without them.
    """
    folders = [str(folder) for folder in (FOLDER, include_path) if folder is not None]
    manager = TaskManager(include_path=folders, include_defaults=False)
    if any(not is_ours(name) and name not in manager.all_tasks for name in names):
        manager = TaskManager(include_path=folders)
    for name in names:
        if (is_ours(name) and name not in OURS) or (name not in manager.all_tasks and not Path(name).is_file()):
            close = difflib.get_close_matches(name, [*OURS, *manager.all_tasks], n=1, cutoff=0.5)
            hint = f"did you mean {close[0]}?" if close else f"this repository's are {', '.join(OURS)}"
            raise ValueError(f"unknown task {name}: {hint}")
        if PREFIX + name in OURS:
            print(f"note: {name} is lm-eval's task; this repository's is {PREFIX + name}", file=sys.stderr)
    return manager


def load(names: list[str], data_dir: Path | None, include_path: Path | None, samples: int, judge: Judge) -> dict:
    """lm-eval's dictionary of tasks and groups. Raises ValueError where a data set cannot be had."""
    manager = task_manager(names, include_path)
    specs = [our_task(name, data_dir, samples, judge) if is_ours(name) else name for name in names]
    try:
        return manager.load(specs)
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"the data of {', '.join(names)} cannot be loaded ({error}): check the network, or pass --data_dir"
        ) from error
