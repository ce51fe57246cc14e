"""Everything an experiment needs, in order: data, trajectories, students, evaluation, report.

    python scripts/run_experiment.py configs/tiny.yaml [key=value ...]

Each stage is a command of its own, printed before it runs, and is skipped if its result is there; run the same command
again after an interruption.
"""

import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path

from cd4lm.config import command_line, exit_with_message, load, require
from cd4lm.data.examples import end_ids
from cd4lm.data.tiny_task import DEFAULT
from cd4lm.data.trajectories import is_complete
from cd4lm.model.checkpoint import check_folder
from cd4lm.model.loading import load_config, load_tokenizer
from cd4lm.settings import DataConfig, ExperimentConfig
from cd4lm.training.launch import collection_command, run_command, training_command
from cd4lm.training.resume import check_output
from cd4lm.training.setup import check_fit, check_packages, student_config
from evaluation.embedded import decoders

ROOT = Path(__file__).resolve().parents[1]


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
    if data.dials is not None:
        wanted["world"] = json.loads(json.dumps(asdict(data.dials)))
    for name, asked in wanted.items():
        # A folder prepared before there were dials has no word of them, and the default ones.
        found = manifest.get(name, json.loads(json.dumps(asdict(DEFAULT))))
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
    teacher, tokenizer = load_config(config.teacher), load_tokenizer(config.teacher)
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


def run_experiment(path: str, overrides: list[str]) -> None:
    config = load(ExperimentConfig, path, overrides)
    students = {name: settings_of(config, [path, *overrides], name) for name in config.also}
    for settings in ([path, *overrides], *students.values()):
        check_experiment(load(ExperimentConfig, settings[0], settings[1:]))
    make_student([path, *overrides])
    for name, settings in students.items():
        make_student(settings, name)
    if config.evaluate is None:
        print(f"\nstudent in {config.output_dir}/student; evaluate it with the benchmark scripts")
        return
    run("evaluation", [sys.executable, "-m", "evaluation.embedded", path, *overrides])
    print("\n" + (Path(config.results_dir) / "report.md").read_text().split("![")[0])


def main():
    os.chdir(ROOT)  # paths in configs are relative to the repository
    run_experiment(*command_line(__doc__))


if __name__ == "__main__":
    exit_with_message(main)
