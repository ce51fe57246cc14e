"""Work shared out to processes on a machine without a GPU, each with its share of the cores."""

import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor


def cores() -> int:
    return os.cpu_count() or 1


def cpu_processes(most: int) -> int:
    """One per core, no more than there is work for; one where there is a GPU, which a single process fills."""
    import torch  # seconds to import, which a help text need not wait for

    return 1 if torch.cuda.is_available() else max(1, min(cores(), most))


def cpu_pool(processes: int) -> ProcessPoolExecutor:
    """A pool whose workers divide the cores among them.

    On Linux they are forked, which spares them the import of torch: start the pool before the first operation of torch,
    whose threads a fork would lose.
    """
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    return ProcessPoolExecutor(processes, context, initializer=use_threads, initargs=(max(1, cores() // processes),))


def use_threads(count: int) -> None:
    import torch

    torch.set_num_threads(count)
