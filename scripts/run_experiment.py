"""Everything an experiment needs: data, trajectories, students, evaluation, report.

    python scripts/run_experiment.py configs/tiny.yaml [key=value ...]

Each stage is a command of its own whose output goes to output_dir/logs, and is skipped if its result is there; run the same
command again after an interruption. On a CPU stages that do not need each other run at once, with a core each.
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch

from cd4lm.config import command_line, exit_with_message, load, require
from cd4lm.data.examples import end_ids
from cd4lm.data.tiny_task import DEFAULT
from cd4lm.data.trajectories import is_complete
from cd4lm.model.checkpoint import check_folder
from cd4lm.model.loading import load_config, tokenizer_for_inference
from cd4lm.settings import DataConfig, ExperimentConfig
from cd4lm.training.fit import check_fit, check_packages, student_config
from cd4lm.training.launch import collection_command, run_command, training_command
from cd4lm.training.processes import processes_asked, rows_per_step
from cd4lm.training.resume import check_output
from cd4lm.training.stages import Stage, run_stages
from cd4lm.workers import cores
from evaluation.embedded import decoders, is_measured, model_names, work_of
from evaluation.embedded_report import summary

ROOT = Path(__file__).resolve().parents[1]
OWN = "student"  # the experiment's own among its students
DUAL_GAIN = 1.6  # how many times faster than without a cache
PASSES = 6  # what a row costs in a training step, in forward passes of decoding; measured on a CPU


def prepare_command(config: ExperimentConfig) -> list[str]:
    """scripts/prepare_data.py with the experiment's data settings."""
    data, options = config.data, []
    if data.source is not None:
        options += ["--source", data.source]
    for dial, value in asdict(data.dials).items() if data.dials is not None else ():
        values = value if isinstance(value, tuple) else (value,)
        options += [] if value is None else [f"--{dial}", *map(str, values)]
    if data.max_samples is not None:
        options += ["--max_samples", str(data.max_samples)]
    if data.answers == "teacher":
        options += ["--answers", "teacher", "--teacher", config.teacher, "--keep", data.keep]
        options += ["--threshold", str(data.answers_threshold), "--temperature", str(data.answers_temperature)]
        options += ["--gen_length", str(config.format.answer_length), "--block_length", str(data.answers_block_length)]
        options += ["--cache", data.answers_cache]
    return [
        sys.executable,
        "scripts/prepare_data.py",
        "--dataset",
        data.dataset,
        "--output_dir",
        data.dir,
        *options,
    ]


def check_data(data: DataConfig) -> bool:
    """Whether the data is prepared; an error if the folder holds something else than the config asks for."""
    file = Path(data.dir) / "manifest.json"
    if not file.is_file():
        return False
    manifest = json.loads(file.read_text())
    wanted = {"dataset": data.dataset, "answers": data.answers}
    # A folder prepared before there were dials or caches has no word of them, and the default ones.
    usual = {"world": json.loads(json.dumps(asdict(DEFAULT))), "answers_cache": "none"}
    if data.dials is not None:
        wanted["world"] = json.loads(json.dumps(asdict(data.dials)))
    if data.answers == "teacher":
        wanted["answers_cache"] = data.answers_cache
        manifest = manifest | {"answers_cache": manifest.get("own_answers", {}).get("cache", "none")}
    for name, asked in wanted.items():
        found = manifest.get(name, usual.get(name))
        require(found == asked, f"{data.dir} was prepared with {name}={found}, not {asked}: delete it")
    return True


def settings_of(config: ExperimentConfig, settings: list[str], name: str) -> list[str]:
    """The settings of one of the experiment's further students; its folder is inside the experiment's."""
    return [*settings, *config.also[name], f"output_dir={config.output_dir}/{name}"]


def run(stage: str, command: list[str], extra: dict[str, str] | None = None) -> None:
    """Run one stage; stop with its exit status if it fails."""
    print(f"\n== {stage}: {' '.join(command)}", flush=True)
    start = time.monotonic()
    status = run_command(command, extra or {})
    if status:
        sys.exit(status)
    print(f"== {stage}: done in {time.monotonic() - start:.0f} s", flush=True)


def check_experiment(config: ExperimentConfig) -> None:
    """What can be known to fail is tried before hours of work."""
    check_folder(config.teacher)
    teacher, tokenizer = load_config(config.teacher), tokenizer_for_inference(config.teacher)
    check_fit(teacher, tokenizer, config.format, config.teacher)
    check_packages(config)
    if config.evaluate is not None:
        for model_config in (teacher, student_config(config)):
            decoders(config.evaluate, "", model_config, end_ids(tokenizer))
    training_command(config, [])
    check_output(Path(config.output_dir), 0)


def prepare(settings: list[str]) -> ExperimentConfig:
    """The stages before training, those done left out. settings: a YAML file, then overrides."""
    config = load(ExperimentConfig, settings[0], settings[1:])
    if not check_data(config.data):
        run("data", prepare_command(config))
    if config.on_paths and not is_complete(Path(config.trajectories.dir)):
        run("trajectories", *collection_command(settings))
    return config


def make_student(settings: list[str], label: str = "student") -> ExperimentConfig:
    """The stages that lead to one experiment's student, those done left out; settings as for prepare."""
    config = prepare(settings)
    if not (Path(config.output_dir) / "student").is_dir():
        run(label, *training_command(config, settings))
    return config


def data_stages(configs: dict[str, ExperimentConfig], settings: dict[str, list[str]]) -> Iterator[Stage]:
    """Data and trajectories of all students, each folder once, those that are there left out."""
    prepared, collected = set(), set()
    for config in configs.values():
        if config.data.dir not in prepared and not check_data(config.data):
            asked = config.data.answers == "teacher"
            work = (config.data.max_samples or 1000) * config.format.answer_length * 2 / 3 if asked else 1.0
            work /= DUAL_GAIN if config.data.answers_cache == "dual" else 1
            name = "data" if not prepared else f"data in {config.data.dir}"
            yield Stage(name, prepare_command(config), work=work, alone=True)
        prepared.add(config.data.dir)
    for name, config in configs.items():
        if config.on_paths and config.trajectories.dir not in collected:
            collected.add(config.trajectories.dir)
            if not is_complete(Path(config.trajectories.dir)):
                command, environment = collection_command(settings[name])
                rows = (config.trajectories.rows or 1000) * len(config.trajectories.temperatures)
                label = "trajectories" if len(collected) == 1 else f"trajectories of {name}"
                yield Stage(label, command, environment, work=rows * config.format.answer_length, alone=True)


def student_stages(
    configs: dict[str, ExperimentConfig], settings: dict[str, list[str]], before: frozenset[str], threads: int
) -> Iterator[Stage]:
    """The trainings that have not ended; one that starts from another's student waits for it."""
    made = {str(Path(config.output_dir) / "student"): name for name, config in configs.items()}
    for name, config in configs.items():
        if (Path(config.output_dir) / "student").is_dir():
            continue
        command, environment = training_command(config, settings[name])
        alone = torch.cuda.is_available() or processes_asked(config.train) > 1
        after = before | ({made[str(Path(config.init_from))]} if str(config.init_from) in made else set())
        steps = config.train.max_steps or config.train.epochs * (config.data.max_samples or 1000) / rows_per_step(
            config.train
        )
        work = steps * rows_per_step(config.train) * PASSES
        yield Stage(name, command, environment | ({} if alone else one_share(threads)), after, work, alone)


def evaluation_stages(
    config: ExperimentConfig, words: list[str], students: dict[str, Path], before: frozenset[str], threads: int
) -> Iterator[Stage]:
    """The runs of each model by themselves where a CPU has cores for that, then the report."""
    embedded, names = [sys.executable, "-m", "evaluation.embedded", *words], []
    if not torch.cuda.is_available():
        for model, folder in model_names(config).items():
            if is_measured(config, model):
                continue
            made = {name for name, output in students.items() if output / "student" == folder}
            names.append(f"answers of {model}")
            how = (one_share(threads), before | made, work_of(config, model))
            yield Stage(names[-1], [*embedded, "--only", model], *how)
    yield Stage("report", embedded, {}, frozenset([*before, *students, *names]), 1.0, alone=True)


def one_share(threads: int) -> dict[str, str]:
    """The environment of a process that is to leave the other cores alone."""
    return {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads))}


def stages_of(settings: dict[str, list[str]], slots: int) -> list[Stage]:
    """Everything that is left to do; settings: of each student by name, the experiment's own first."""
    configs = {name: load(ExperimentConfig, words[0], words[1:]) for name, words in settings.items()}
    threads = max(1, cores() // slots)
    stages = list(data_stages(configs, settings))
    before = frozenset(stage.name for stage in stages)
    stages += student_stages(configs, settings, before, threads)
    config = configs[OWN]
    if config.evaluate is not None:
        students = {name: Path(other.output_dir) for name, other in configs.items()}
        stages += evaluation_stages(config, settings[OWN], students, before, threads)
    return stages


def run_experiment(path: str, overrides: list[str]) -> None:
    """Check everything, then run what is not done yet."""
    config = load(ExperimentConfig, path, overrides)
    settings = {OWN: [path, *overrides]}
    settings |= {name: settings_of(config, settings[OWN], name) for name in config.also}
    for words in settings.values():
        check_experiment(load(ExperimentConfig, words[0], words[1:]))
    slots = 1 if torch.cuda.is_available() else min(cores(), len(settings) + 1)
    run_stages(stages_of(settings, slots), slots, Path(config.output_dir) / "logs")
    if config.evaluate is None:
        print(f"\nstudent in {config.output_dir}/student; evaluate it with the benchmark scripts")
        return
    print("\n" + summary(config))


def main():
    os.chdir(ROOT)  # paths in configs are relative to the repository
    run_experiment(*command_line(__doc__))


if __name__ == "__main__":
    exit_with_message(main)
