"""Sum a tensor over all processes, and say how long that takes: started by preflighting.gpu with torchrun."""

import json
import os
import sys
import time

import torch
from torch import distributed

from cd4lm.training.throughput import wait

NUMBERS = {"cuda": 2**26, "cpu": 2**20}


def main() -> None:
    kind = sys.argv[1]
    backend = "nccl" if kind == "cuda" else "gloo"
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if kind == "cuda" else torch.device("cpu")
    if kind == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group(backend)
    rank, world = distributed.get_rank(), distributed.get_world_size()
    x = torch.full((NUMBERS[kind],), float(rank + 1), device=device)
    distributed.all_reduce(x)
    right = bool((x == world * (world + 1) / 2).all())
    distributed.barrier()
    start = time.perf_counter()
    distributed.all_reduce(x)
    wait(device)
    seconds = time.perf_counter() - start
    if rank == 0:
        print(json.dumps({"bytes": x.nbytes, "seconds": seconds, "right": right, "backend": backend}))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
