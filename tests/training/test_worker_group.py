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
signal.signal(signal.SIGTERM, lambda *_: (time.sleep(1), sys.exit("saved")))
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize(
    "case,said,status",
    [("refuse", "error: bad input", 1), ("die", "error: rank 0 was killed by signal 9", 137), ("wait", "saved", 143)],
)
def test_one_line_and_the_status_of_the_process(tmp_path, case, said, status):
    (tmp_path / "script.py").write_text(SCRIPT)
    words = [sys.executable, "-m", "src.training.worker_group", "torch.distributed.run", "--standalone"]
    words += ["--nproc_per_node", "1", str(tmp_path / "script.py"), case]
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if case == "wait":
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert (errors.splitlines(), process.returncode) == ([said], status)
