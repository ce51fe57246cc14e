"""Run torchrun or accelerate so that a failed process ends the group with its own error and exit status alone.

    python -m cd4lm.training.worker_group torch.distributed.run --nproc_per_node 2 -m cd4lm.training.train CONFIG

By themselves both print a traceback of their own after the error of the process and exit with status 1.
cd4lm.training.launch starts them through this module.
"""

import logging
import runpy
import sys

from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError


def main():
    module, sys.argv = sys.argv[1], sys.argv[1:]
    logging.disable(logging.ERROR)  # torchrun logs a line for each process that ends
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:
            print(f"error: rank {rank} was killed by signal {-failure.exitcode}", file=sys.stderr)
        sys.exit(failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode)
    except SignalException as error:
        sys.exit(128 + error.sigval)


if __name__ == "__main__":
    main()
