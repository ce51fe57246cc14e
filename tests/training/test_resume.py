"""Interrupted runs: killed or stopped at any step they go on as if nothing had happened, or refuse to."""

import dataclasses
import multiprocessing
import os
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from cd4lm.config import TERMINATED, build, dump
from cd4lm.model.loading import parameter_count
from cd4lm.training.collect_trajectories import collect
from cd4lm.training.export import consolidate
from cd4lm.training.pretrain import PretrainConfig, pretrain
from cd4lm.training.resume import KEPT_CHECKPOINTS, NOT_TRAINING, check_output, check_resume, last_checkpoint, run_bytes
from cd4lm.training.train import build_trainer, train
from tests.training.test_trainer import trainer
from tests.training.worlds import (
    ADAPTERS,
    LOSSES,
    PARTS,
    cdlm_config,
    config,
    objective_config,
    steps,
    write_teacher_and_data,
)


def test_a_half_written_checkpoint_is_passed_over(tmp_path):
    assert last_checkpoint(tmp_path / "none") is None
    for step, state in ((2, "{}"), (10, "{}"), (12, '{"epo'), (14, None)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if state is not None:
            (tmp_path / f"checkpoint-{step}/trainer_state.json").write_text(state)
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")


class TestOtherSettings:
    def test_every_setting_of_training_counts(self, tmp_path):
        before = config(tmp_path, "run")
        dump(before, tmp_path / "config.yaml")
        check_resume(before, tmp_path, free=NOT_TRAINING)
        check_resume(dataclasses.replace(before, output_dir="moved", also={"other": ()}), tmp_path, free=NOT_TRAINING)
        for section in ("data", "format", "dscd", "train"):
            part = vars(before)[section]
            for field in dataclasses.fields(part):
                changed = dataclasses.replace(before, **{section: changed_field(part, field.name)})
                if changed != before:
                    with pytest.raises(ValueError, match=f"started with {section}.{field.name}="):
                        check_resume(changed, tmp_path, free=NOT_TRAINING)

    def test_all_differences_are_named(self, tmp_path):
        before = config(tmp_path, "run")
        dump(before, tmp_path / "config.yaml")
        with pytest.raises(ValueError, match=r"teacher=.*, not x, train.seed=42, not 1"):
            check_resume(
                dataclasses.replace(before, teacher="x", train=dataclasses.replace(before.train, seed=1)), tmp_path
            )

    def test_checkpoints_without_settings_are_not_trusted(self, tmp_path):
        with pytest.raises(ValueError, match="no config.yaml"):
            check_resume(config(tmp_path, "run"), tmp_path)


def changed_field(part, name: str):
    """A copy of a section with one numeric setting moved by a little; unchanged for settings of other kinds."""
    value = vars(part)[name]
    if isinstance(value, bool):
        return dataclasses.replace(part, **{name: not value})
    if isinstance(value, int):
        return dataclasses.replace(part, **{name: value + 1})
    if isinstance(value, float):
        return dataclasses.replace(part, **{name: value * 0.99 or 0.01})
    return part


class TestOutput:
    def test_too_little_space_stops_before_training(self, tmp_path):
        with pytest.raises(ValueError, match="GB free but the run may write 1000000000.0 GB more"):
            check_output(tmp_path, 10**18)

    def test_what_is_there_already_counts(self, tmp_path):
        (tmp_path / "old").write_bytes(b"0" * 4096)
        check_output(tmp_path, shutil.disk_usage(tmp_path).free - 10**8)
        assert [path.name for path in tmp_path.iterdir()] == ["old"]

    def test_a_place_that_cannot_be_written(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(OSError, match="file"):
            check_output(tmp_path / "file/run", 0)

    def test_the_estimate_covers_what_a_run_writes(self, tmp_path):
        """Three checkpoints at once, and the student: the weights and both moments of each, in float32."""
        write_teacher_and_data(tmp_path)
        trainer = build_trainer(config(tmp_path, "out", max_steps=1), tmp_path / "out")
        trainer.train()
        checkpoint = Path(last_checkpoint(tmp_path / "out/checkpoints"))
        size = sum((checkpoint / name).stat().st_size for name in ("model.safetensors", "optimizer.pt"))
        parameters = parameter_count(trainer.model.config)
        assert 0.8 * size * (KEPT_CHECKPOINTS + 1) < run_bytes(parameters) < 1.5 * size * (KEPT_CHECKPOINTS + 1)


@pytest.fixture(scope="module")
def forks():
    """Processes that start at once: a server has imported training before, so that kills come while it trains."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["cd4lm.training.train", "cd4lm.training.pretrain", "cd4lm.training.collect_trajectories"]
    )
    return context


def wait_for_steps(process, folder, count: int) -> None:
    """Return when the log has so many steps, or the process has ended."""
    log, deadline = folder / "training_log.jsonl", time.monotonic() + 240
    while process.is_alive() and not (log.is_file() and log.read_text().count('"grad_norm"') >= count):
        assert time.monotonic() < deadline
        time.sleep(0.002)


def run_killed(forks, target, run, folder, after: list[int]) -> None:
    """Start the run again and again, each time with SIGKILL once its log has so many steps, then to the end."""
    for count in after:
        process = forks.Process(target=target, args=(run,))
        process.start()
        wait_for_steps(process, folder, count)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    process = forks.Process(target=target, args=(run,))
    process.start()
    process.join()
    assert process.exitcode == 0


def same_runs(whole: Path, other: Path, values: tuple[str, ...]) -> None:
    """Logs and weights are equal to the last bit."""
    for key in (*values, "grad_norm"):
        assert [step[key] for step in steps(other)] == [step[key] for step in steps(whole)], key
    a, b = (load_file(folder / "student/model.safetensors") for folder in (whole, other))
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def signalled_twice(folder: Path) -> None:
    """Train with two SIGTERMs within the first step."""

    class Twice(TrainerCallback):
        def on_step_begin(self, *_, **__):
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)

    run = trainer(folder)
    run.add_callback(Twice())
    run.train()


@pytest.mark.slow
class TestInterrupted:
    @pytest.fixture(scope="class")
    def world(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("world")
        write_teacher_and_data(folder)
        train(config(folder, "whole", max_steps=12))
        return folder

    @pytest.fixture(scope="class")
    def paths(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("paths")
        write_teacher_and_data(folder)
        collect(cdlm_config(folder, "any"))
        return folder

    def test_killed_at_several_steps_equals_uninterrupted(self, world, forks):
        run_killed(forks, train, config(world, "killed", max_steps=12), world / "killed", [1, 3, 6, 9])
        self.same(world, "killed")

    def test_cdlm_killed_while_it_collects_and_while_it_trains(self, tmp_path, forks):
        write_teacher_and_data(tmp_path)
        whole, killed = (cdlm_config(tmp_path, name, max_steps=8) for name in ("whole", "killed"))
        part = replace(killed, trajectories=replace(killed.trajectories, dir=str(tmp_path / "killed_paths")))
        collect(whole)
        process = forks.Process(target=collect, args=(part,))
        process.start()
        while process.is_alive() and not list(tmp_path.glob("killed_paths/shard-*.safetensors")):
            time.sleep(0.002)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        collect(part)
        files = [sorted(tmp_path.glob(f"{folder}/shard-*")) for folder in ("paths", "killed_paths")]
        assert len(files[0]) == 5 and [f.read_bytes() for f in files[0]] == [f.read_bytes() for f in files[1]]
        train(whole)
        run_killed(forks, train, killed, tmp_path / "killed", [1, 4])
        same_runs(tmp_path / "whole", tmp_path / "killed", ("step", "loss", *PARTS["cdlm"]))

    @pytest.mark.parametrize("objective", ["dparallel", "d3llm", "tad"])
    def test_other_objectives_killed_at_several_steps(self, paths, forks, objective):
        """TAD with adapters that drop out, whose random numbers a checkpoint holds."""
        lora = {"lora": ADAPTERS["lora"] | {"dropout": 0.3}} if objective == "tad" else {}
        runs = [objective_config(paths, f"{objective}_{n}", objective, changes=lora) for n in ("whole", "killed")]
        train(runs[0])
        run_killed(forks, train, runs[1], paths / f"{objective}_killed", [1, 3])
        same_runs(paths / f"{objective}_whole", paths / f"{objective}_killed", ("step", "loss", *PARTS[objective]))

    def same(self, world, name):
        assert [step["step"] for step in steps(world / name)] == list(range(1, 13))
        same_runs(world / "whole", world / name, LOSSES)

    def test_sigterm_saves_exits_with_143_and_resumes(self, world, forks):
        run = config(world, "stopped", max_steps=12, save_every=100)
        process = forks.Process(target=train, args=(run,))
        process.start()
        wait_for_steps(process, world / "stopped", 5)
        os.kill(process.pid, signal.SIGTERM)
        process.join()
        assert process.exitcode == TERMINATED
        checkpoint = last_checkpoint(world / "stopped/checkpoints")
        step = len(steps(world / "stopped"))
        assert checkpoint.endswith(f"checkpoint-{step}") and 5 <= step < 12
        train(run)
        self.same(world, "stopped")

    def test_a_sigterm_that_comes_twice_is_one_request(self, tmp_path, forks):
        """`timeout` and Slurm signal the launcher and its processes both, and the launcher hands its own on."""
        process = forks.Process(target=signalled_twice, args=(tmp_path,))
        process.start()
        process.join()
        assert process.exitcode == TERMINATED
        assert last_checkpoint(tmp_path).endswith("checkpoint-1")

    def test_a_checkpoint_becomes_a_released_one(self, world, forks):
        run = config(world, "cut", max_steps=12, save_every=2)
        process = forks.Process(target=train, args=(run,))
        process.start()
        wait_for_steps(process, world / "cut", 4)
        process.kill()
        process.join()
        checkpoint = world / "cut/checkpoints/checkpoint-2"
        consolidate(checkpoint, world / "merged")
        saved, merged = (load_file(f / "model.safetensors") for f in (checkpoint, world / "merged"))
        assert saved.keys() == merged.keys() and all(torch.equal(saved[key], merged[key]) for key in saved)
        assert (world / "merged/tokenizer.json").is_file() and (world / "merged/generation_config.json").is_file()
        with pytest.raises(ValueError, match="exists: choose another folder"):
            consolidate(checkpoint, world / "merged")
        with pytest.raises(ValueError, match="is not a checkpoint of training"):
            consolidate(world / "teacher", world / "other")

    def test_a_killed_pretraining_equals_an_uninterrupted_one(self, tmp_path, forks):
        tree = {
            "steps": 12,
            "batch_size": 8,
            "warmup_steps": 1,
            "save_every": 2,
            "shape": {"d_model": 32, "n_heads": 2, "n_layers": 1, "mlp_hidden_size": 32},
            "format": {"answer_length": 40, "max_length": 128},
        }
        whole, killed = (build(PretrainConfig, tree | {"output_dir": str(tmp_path / n)}) for n in ("whole", "killed"))
        pretrain(whole)
        run_killed(forks, pretrain, killed, tmp_path / "killed", [1, 5, 8])
        a, b = steps(tmp_path / "whole"), steps(tmp_path / "killed")
        assert [(s["step"], s["loss"], s["grad_norm"]) for s in a] == [
            (s["step"], s["loss"], s["grad_norm"]) for s in b
        ]
        with pytest.raises(ValueError, match="started with batch_size=8, not 4"):
            pretrain(dataclasses.replace(killed, batch_size=4))
