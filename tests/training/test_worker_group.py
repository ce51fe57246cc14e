"""The launcher of several processes ends as they do and says no more than they have."""

import signal
import subprocess
import sys

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.slow

SCRIPT = """
import os, signal, sys, time
if sys.argv[1] == "refuse":
    sys.exit("error: bad input")
if sys.argv[1] == "die":
    os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[1] in ("all", "second"):
    from cd4lm.config import exit_with_message
    def main():
        if sys.argv[1] == "all" or os.environ["RANK"] == "1":
            raise ValueError("bad input")
        time.sleep(60)
    exit_with_message(main)
if sys.argv[1].startswith("joined"):
    import torch.distributed as dist
    from cd4lm.config import exit_with_message
    def main():
        dist.init_process_group("gloo")
        dist.barrier()
        if sys.argv[1] == "joined and failed":
            raise ValueError("bad input")
    exit_with_message(main)
    sys.exit("still in its group" if dist.is_initialized() else 0)
signal.signal(signal.SIGTERM, lambda *_: (time.sleep(1), sys.exit("saved")))
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize(
    "case,processes,said,status",
    [
        ("refuse", 1, ["error: bad input"], 1),
        ("die", 1, ["error: rank 0 was killed by signal 9"], 137),
        ("wait", 1, ["saved"], 143),
        ("all", 2, ["error: bad input"], 1),
        ("second", 2, ["error: bad input"], 1),
        ("joined", 2, [], 0),
        ("joined and failed", 2, ["error: bad input"], 1),
    ],
)
def test_one_line_and_the_status_of_the_process(tmp_path, case, processes, said, status):
    (tmp_path / "script.py").write_text(SCRIPT)
    words = [sys.executable, "-m", "cd4lm.training.worker_group", "torch.distributed.run", "--standalone"]
    words += ["--nproc_per_node", str(processes), str(tmp_path / "script.py"), case]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(words, cwd=ROOT, **pipes)
    if case == "wait":
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert (errors.splitlines(), process.returncode) == (said, status)
