"""Work shared out to processes on a machine without a GPU, each with its share of the cores."""

import multiprocessing
import os
import sys
import threading
import time
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
    return ProcessPoolExecutor(
        processes, context, initializer=begin, initargs=(max(1, cores() // processes), os.getpid())
    )


def begin(threads: int, parent: int) -> None:
    """Set a worker up. One whose parent was killed ends, where it would wait for work forever."""
    import torch

    torch.set_num_threads(threads)
    threading.Thread(target=end_with, args=(parent,), daemon=True).start()


def end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
