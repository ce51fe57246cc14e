"""Command lines as a user types them, each in a process of its own that need not import the libraries again.

A server imports them once and is forked for every command, which spares the ten seconds that an interpreter needs for
them. What a command sees is what `python ...` would give it: arguments, working directory, environment, standard streams.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.conftest import ROOT

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["cd4lm.training.trainer", "evaluation.measure", "evaluation.plots"])


def run_program(words: list[str], environment: dict[str, str], streams: Path) -> None:
    """`python words...` in this process."""
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(streams / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(ROOT)
    module = words[0] == "-m"
    sys.argv = words[1:] if module else words
    if module:
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(words[0], run_name="__main__")


def command(*words, **environment) -> subprocess.CompletedProcess:
    """The finished `python words...`, run from the repository, and what it wrote."""
    words = [str(word) for word in words]
    with tempfile.TemporaryDirectory() as folder:
        streams = Path(folder)
        process = FORKS.Process(target=run_program, args=(words, os.environ | environment, streams))
        process.start()
        process.join()
        out, err = ((streams / name).read_text() for name in ("out", "err"))
    return subprocess.CompletedProcess(words, process.exitcode, out, err)


def alone(*words, folder: Path = ROOT) -> subprocess.CompletedProcess:
    """As command, by a new interpreter in a folder, which finds its imports by itself."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    words = [sys.executable, *map(str, words)]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, env=environment)


def refused(done: subprocess.CompletedProcess, message: str) -> None:
    """One line on stderr that holds the message, and a non-zero exit."""
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert done.returncode != 0
    assert len(lines) == 1 and message in lines[0], done.stderr
