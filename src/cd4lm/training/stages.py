"""The commands of an experiment, several at once where the machine has cores for it, with one display for all of them."""

import re
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cd4lm.progress import VARIABLE, Reader
from cd4lm.training.commands import start

POLL = 0.2  # seconds
SAID_EVERY = 30  # seconds between two lines where the output is no terminal
LAST_LINES = 20  # of the log of a command that failed without a message
SURE = 0.03  # share of the work from which the time left is told


@dataclass(frozen=True)
class Stage:
    """One command. after: names of stages that must be done; alone: nothing runs beside it.

    work: how long it takes in the same unit for all stages (forward passes of a row), for the time left.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    after: frozenset[str] = frozenset()
    work: float = 1.0
    alone: bool = False


class Job:
    """A stage that was started; its output goes to a log."""

    def __init__(self, stage: Stage, logs: Path):
        self.stage, self.start, self.seconds = stage, time.monotonic(), 0.0
        slug = re.sub(r"\W+", "_", stage.name).strip("_")
        self.log, self.reader = logs / f"{slug}.log", Reader(logs / f"{slug}.progress")
        self.reader.path.unlink(missing_ok=True)
        with open(self.log, "ab") as log:
            self.begin = log.tell()
            shown = {VARIABLE: str(self.reader.path.absolute())}
            self.process = start(stage.command, shown | dict(stage.environment), log.fileno())

    def poll(self) -> int | None:
        """The exit status as a shell reports it; None while it runs."""
        self.reader.refresh()
        status = self.process.poll()
        if status is not None and not self.seconds:
            self.seconds = max(time.monotonic() - self.start, 1e-3)
            self.reader.path.unlink(missing_ok=True)
        return 128 - status if status is not None and status < 0 else status

    @property
    def elapsed(self) -> float:
        return self.seconds or time.monotonic() - self.start

    def reason(self) -> str:
        """Why it failed: its own message, or the end of its log."""
        with open(self.log, "rb") as log:
            log.seek(self.begin)
            lines = [line for line in log.read().decode(errors="replace").splitlines() if line.strip()]
        said = [line for line in lines if line.startswith("error: ")]
        return (
            said[-1] if said else "\n".join([*lines[-LAST_LINES:], f"error: {self.stage.name} failed: see {self.log}"])
        )


class Board:
    """All stages of a plan: which runs, how far it is, how long all of it will take."""

    def __init__(self, stages: Sequence[Stage], logs: Path):
        self.stages, self.logs, self.start = stages, logs, time.monotonic()
        self.jobs: dict[str, Job] = {}

    def share(self, stage: Stage) -> float:
        job = self.jobs.get(stage.name)
        return 0.0 if job is None else 1.0 if job.seconds else job.reader.share

    def seconds_left(self) -> float | None:
        """From the work done in this run; None while there is too little of it to tell."""
        new = {s.name: s.work * (1 - self.earlier(s)) for s in self.stages}
        done = sum(s.work * (self.share(s) - self.earlier(s)) for s in self.stages)
        everything = sum(new.values())
        if done < SURE * everything:
            return None
        return (everything - done) * (time.monotonic() - self.start) / done

    def earlier(self, stage: Stage) -> float:
        """The share of a stage that an earlier session has done."""
        job = self.jobs.get(stage.name)
        return 0.0 if job is None or not job.reader.total else min(1.0, job.reader.initial / job.reader.total)

    def left(self) -> str:
        seconds = self.seconds_left()
        spent = clock(time.monotonic() - self.start)
        return f"{spent} so far, " + (
            "the time left is not known yet" if seconds is None else f"about {clock(seconds)} left"
        )

    def table(self) -> Group:
        """One line per stage and one for all."""
        grid = Table.grid(padding=(0, 1))
        grid.add_column(no_wrap=True)
        grid.add_column(width=24)
        grid.add_column(justify="right", no_wrap=True)
        grid.add_column(no_wrap=True, overflow="ellipsis", style="dim")
        for stage in self.stages:
            job = self.jobs.get(stage.name)
            if job is None:
                grid.add_row(Text(stage.name, style="dim"), Text("waits", style="dim"), "", "")
                continue
            done = bool(job.seconds)
            bar = Text("done", style="green") if done else ProgressBar(1.0, self.share(stage), width=24)
            grid.add_row(stage.name, bar, clock(job.elapsed), "" if done else job.reader.note)
        return Group(grid, Text(f"{self.left()}; output in {self.logs}", style="bold"))

    def line(self) -> str:
        """What runs now, in a line."""
        running = [job for job in self.jobs.values() if not job.seconds]
        parts = [f"{job.stage.name} {100 * job.reader.share:.0f} %" for job in running]
        return f"{', '.join(parts)}; {self.left()}"


class Display:
    """Draws a board in place on a terminal; elsewhere prints a line for what begins and ends, and now and then for the rest."""

    def __init__(self, board: Board):
        self.board, self.said = board, time.monotonic()
        console = Console(highlight=False, markup=False, emoji=False)
        in_place = console.is_terminal and not console.is_dumb_terminal
        self.live = Live(console=console, auto_refresh=False, vertical_overflow="visible") if in_place else None

    def __enter__(self):
        if self.live is not None:
            self.live.start()
        return self

    def __exit__(self, *error) -> None:
        if self.live is not None:
            self.draw()
            self.live.stop()

    def draw(self) -> None:
        if self.live is not None:
            self.live.update(self.board.table(), refresh=True)
        elif time.monotonic() - self.said > SAID_EVERY:
            self.say(self.board.line())

    def say(self, line: str) -> None:
        if self.live is None:
            print(line, flush=True)
            self.said = time.monotonic()


def run_stages(stages: Sequence[Stage], slots: int, logs: Path) -> None:
    """Run all stages, at most `slots` at a time, in their order as far as `after` allows.

    The first that fails ends the others with SIGTERM and the program with its status; so does SIGTERM.
    """
    logs.mkdir(parents=True, exist_ok=True)
    board = Board(stages, logs)
    previous = signal.signal(signal.SIGTERM, lambda number, frame: stop(board))
    try:
        with Display(board) as display:
            failed = supervise(board, slots, display)
    finally:
        stop(board)
        for job in board.jobs.values():
            job.process.wait()
        signal.signal(signal.SIGTERM, previous)
    if failed is not None:
        print(failed.reason(), file=sys.stderr, flush=True)
        sys.exit(failed.poll())


def supervise(board: Board, slots: int, display: Display) -> Job | None:
    """Start what can start until all is done; the job that failed, if one did."""
    while True:
        for job in board.jobs.values():
            seen = bool(job.seconds)
            status = job.poll()
            if status:
                return job
            if status == 0 and not seen:
                display.say(f"== {job.stage.name}: done in {job.seconds:.0f} s")
        done = {name for name, job in board.jobs.items() if job.seconds}
        if len(done) == len(board.stages):
            return None
        running = [job.stage for job in board.jobs.values() if not job.seconds]
        for stage in next_stages(board.stages, set(board.jobs), done, running, slots):
            board.jobs[stage.name] = Job(stage, board.logs)
            display.say(f"== {stage.name}: {' '.join(stage.command)}")
        display.draw()
        time.sleep(POLL)


def next_stages(
    stages: Sequence[Stage], started: set[str], done: set[str], running: Sequence[Stage], slots: int
) -> list[Stage]:
    """What to start now: as many as there are slots, what is to run alone only while nothing else does."""
    names, found = {stage.name for stage in stages}, []
    for stage in stages:
        busy = [*running, *found]
        if len(busy) >= slots or any(other.alone for other in busy):
            break
        ready = stage.name not in started and all(name in done for name in stage.after & names)
        if ready and not (stage.alone and busy):
            found.append(stage)
    return found


def stop(board: Board) -> None:
    for job in board.jobs.values():
        if job.process.poll() is None:
            job.process.terminate()


def clock(seconds: float) -> str:
    """1:05, 1:02:05."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
