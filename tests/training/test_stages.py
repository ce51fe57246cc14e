"""Stages of an experiment: what starts when, the progress they report, and how one that fails ends the rest."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from cd4lm.progress import VARIABLE, Progress, Reader
from cd4lm.training.commands import Fork, start
from cd4lm.training.stages import Board, Stage, clock, next_stages, run_stages
from tests.conftest import ROOT


def stage(name: str, *after: str, alone: bool = False, code: str = "", work: float = 1.0) -> Stage:
    return Stage(name, [sys.executable, "-c", code], {}, frozenset(after), work, alone)


PLAN = [
    stage("data", alone=True),
    stage("a", "data"),
    stage("b", "data"),
    stage("answers", "a"),
    stage("report", "a", "b", "answers", alone=True),
]


@pytest.mark.parametrize(
    "started,done,slots,wanted",
    [
        ("", "", 2, ["data"]),
        ("data", "", 2, []),
        ("data", "data", 2, ["a", "b"]),
        ("data", "data", 1, ["a"]),
        ("data a b", "data b", 2, []),
        ("data a b", "data a", 2, ["answers"]),
        ("data a b answers", "data a b", 2, []),
        ("data a b answers", "data a b answers", 2, ["report"]),
    ],
)
def test_what_starts(started, done, slots, wanted):
    running = [s for s in PLAN if s.name in started.split() and s.name not in done.split()]
    found = next_stages(PLAN, set(started.split()), set(done.split()), running, slots)
    assert [s.name for s in found] == wanted


def test_what_is_done_already_is_not_waited_for():
    assert [s.name for s in next_stages(PLAN[3:], set(), set(), [], 2)] == ["answers"]


def test_progress_of_several_processes_in_one_file(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "file"))
    reader = Reader(tmp_path / "file")
    reader.refresh()
    assert reader.share == 0
    with Progress(10, "x", "row", initial=4) as one, Progress(10, "x", "row") as two:
        one.add(3, "here")
        reader.refresh()
        two.add(2)
        with open(tmp_path / "file", "a") as file:
            file.write('{"add": 5')  # a line that is being written
        reader.refresh()
    assert (reader.done, reader.total, reader.initial, reader.note) == (9, 20, 4, "here")


def test_the_time_left_counts_the_work_of_this_session(tmp_path):
    board = Board([stage("a", work=100), stage("b", work=300)], tmp_path)
    assert board.seconds_left() is None

    class Half:
        seconds, reader = 0.0, Reader(tmp_path / "none", done=75, total=100, initial=50)

    board.jobs["a"], board.start = Half(), time.monotonic() - 10
    # A quarter of 100 in 10 s; a quarter of 100 and all of 300 are left.
    assert board.seconds_left() == pytest.approx(130, rel=0.01)
    assert (clock(65), clock(3725)) == ("1:05", "1:02:05")


def test_all_run_and_their_output_is_in_logs(tmp_path, capsys):
    made = [
        stage("first", code="print('one')"),
        stage("the second", "first", code="import sys; print('two', file=sys.stderr)"),
    ]
    run_stages(made, 2, tmp_path / "logs")
    assert {f.name: f.read_text() for f in (tmp_path / "logs").iterdir()} == {
        "first.log": "one\n",
        "the_second.log": "two\n",
    }
    said = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in said] == ["== first", "== first", "== the second", "== the second"]


def test_one_that_fails_ends_the_others_and_says_why(tmp_path, capsys):
    slow = "import time, pathlib; time.sleep(60); pathlib.Path(r'%s').touch()" % (tmp_path / "late")
    bad = "import sys; print('a long story'); sys.exit('error: the teacher is gone: bring it back')"
    start = time.monotonic()
    with pytest.raises(SystemExit) as stop:
        run_stages([stage("slow", code=slow), stage("bad", code=bad), stage("never", "bad")], 2, tmp_path)
    assert stop.value.code == 1 and time.monotonic() - start < 30
    assert capsys.readouterr().err == "error: the teacher is gone: bring it back\n"
    with pytest.raises(SystemExit):
        run_stages([stage("bad", code="print('no message'); 1 / 0")], 2, tmp_path)
    said = capsys.readouterr().err
    assert "ZeroDivisionError" in said and said.endswith(f"error: bad failed: see {tmp_path}/bad.log\n")
    assert "a long story" not in said  # of the run before


def test_sigterm_is_handed_on(tmp_path):
    """A training saves a checkpoint on it, and so must get it."""
    told = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(143)); print('up', flush=True); time.sleep(60)"
    code = (
        "import sys; from pathlib import Path; from cd4lm.training.stages import Stage, run_stages; "
        f"run_stages([Stage('x', [sys.executable, '-c', {told!r}])], 1, Path({str(tmp_path)!r}))"
    )
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    parent = subprocess.Popen(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path}, stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "x.log").is_file() or "up" not in (tmp_path / "x.log").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    parent.send_signal(signal.SIGTERM)
    assert parent.wait(30) == 143


SAYS = """
import os, sys, torch
print(sys.argv[1:], os.environ["WORD"], torch.get_num_threads(), __name__)
sys.exit("error: it ends here")
"""


def test_a_forked_command_sees_and_says_what_a_new_interpreter_does(tmp_path, monkeypatch):
    (tmp_path / "says.py").write_text(SAYS)
    command, environment = [sys.executable, str(tmp_path / "says.py"), "a", "b"], {"WORD": "w", "OMP_NUM_THREADS": "1"}
    ways = {Fork: "forked", subprocess.Popen: "alone"}
    for threads, (way, name) in enumerate(ways.items(), start=1):  # a process with other threads is not forked
        monkeypatch.setattr(threading, "active_count", lambda threads=threads: threads)
        with open(tmp_path / name, "wb") as output:
            process = start(command, environment, output.fileno())
            assert isinstance(process, way) and process.wait() == process.poll() == 1
    said = [(tmp_path / name).read_text() for name in ways.values()]
    assert said[0] == said[1] == "['a', 'b'] w 1 __main__\nerror: it ends here\n"
    assert "WORD" not in os.environ


def test_a_forked_command_ends_with_sigterm(tmp_path, monkeypatch):
    monkeypatch.setattr(threading, "active_count", lambda: 1)
    (tmp_path / "waits.py").write_text(f"open({str(tmp_path / 'began')!r}, 'w'); import time; time.sleep(60)")
    process = start([sys.executable, str(tmp_path / "waits.py")], {})
    while not (tmp_path / "began").exists():
        time.sleep(0.01)
    process.terminate()
    assert process.wait() == -signal.SIGTERM
