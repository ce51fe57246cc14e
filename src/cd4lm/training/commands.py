"""Start the commands of an experiment; on a CPU as forks of this process, which spares each the seconds of its imports."""

import importlib
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence

import torch

from cd4lm.config import exit_with_message

NOT_FORKED = "cd4lm.training.worker_group"  # leads a process group of its own


class Fork:
    """A command in a fork of this process, with subprocess.Popen's methods that are needed here."""

    def __init__(
        self, run: Callable[[], object], words: Sequence[str], environment: Mapping[str, str], output: int | None
    ):
        arguments = (run, words, environment, output)
        self.process = multiprocessing.get_context("fork").Process(target=run_forked, args=arguments)
        self.process.start()

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self) -> int:
        self.process.join()
        return self.process.exitcode

    def terminate(self) -> None:
        self.process.terminate()


def run_forked(
    run: Callable[[], object], words: Sequence[str], environment: Mapping[str, str], output: int | None
) -> None:
    """What an interpreter would find at its start: arguments, environment, streams, threads; then the command."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if output is not None:
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(output, number)
            setattr(sys, name, open(number, "w", buffering=1, closefd=False))  # noqa: SIM115, as long as the process
    os.environ.update(environment)
    sys.argv = [*words]
    if "OMP_NUM_THREADS" in os.environ:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    run()


def start(command: Sequence[str], environment: Mapping[str, str], output: int | None = None) -> Fork | subprocess.Popen:
    """Start a command with further environment variables; output: a file's descriptor for both its streams.

    A module must end in exit_with_message(main).
    """
    # A fork loses other threads, and a GPU cannot be used by both sides of it.
    forks = sys.platform == "linux" and threading.active_count() == 1 and not torch.cuda.is_available()
    if forks and command[0] == sys.executable:
        if command[1] == "-m" and command[2] != NOT_FORKED:
            module = importlib.import_module(command[2])  # here, so that the next command is spared it
            return Fork(lambda: exit_with_message(module.main), command[2:], environment, output)
        if command[1].endswith(".py"):
            return Fork(lambda: runpy.run_path(command[1], run_name="__main__"), command[1:], environment, output)
    streams = {} if output is None else {"stdout": output, "stderr": output}
    return subprocess.Popen(command, env=os.environ | environment, **streams)
