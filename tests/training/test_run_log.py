"""The log survives a kill and has no line twice."""

import json

from cd4lm.training.run_log import RunLog


def lines(folder):
    return [json.loads(line) for line in (folder / "training_log.jsonl").read_text().splitlines()]


def test_a_resumed_log_drops_what_came_after_the_checkpoint(tmp_path):
    first = RunLog(tmp_path, 0)
    for step in range(1, 6):
        first.write(step, {"loss": float(step)})
    first.close()
    with open(tmp_path / "training_log.jsonl", "a") as file:
        file.write('{"step": 6, "los')  # cut short by a kill
    second = RunLog(tmp_path, 3)
    second.write(4, {"loss": 4.5})
    second.close()
    assert [(line["step"], line["loss"]) for line in lines(tmp_path)] == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.5)]


def test_a_fresh_run_starts_empty(tmp_path):
    RunLog(tmp_path, 0).write(1, {"loss": 1.0})
    RunLog(tmp_path, 0).close()
    assert lines(tmp_path) == []


def test_tensorboard_gets_the_same_values(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = RunLog(tmp_path, 0)
    log.write(1, {"loss": 2.0})
    log.write(2, {"loss": 1.0})
    log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 2.0), (2, 1.0)]
