"""Escapes of generated programs: each is stopped and gains nothing, leaves nothing, and the next program runs."""

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from evaluation.metrics import humaneval, mbpp, sandbox
from evaluation.metrics.verdict import SANDBOXES, Scoring
from tests.conftest import ROOT
from tests.evaluation.escapes import ESCAPES, HONEST, TESTS

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is for Linux"),
    pytest.mark.skipif(shutil.which("bwrap") is None, reason="bwrap is not installed"),
]


def running(mark: str) -> list[str]:
    """Processes whose command line holds a mark."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue  # gone meanwhile
            found += [f"{entry.name} {line}"] if mark in line else []
    return found


def gone(mark: str) -> bool:
    """Whether all processes with a mark end within seconds; the kernel ends a namespace after its first process."""
    end = time.monotonic() + 10
    while running(mark) and time.monotonic() < end:
        time.sleep(0.05)
    return not running(mark)


def marked_limits() -> tuple[str, sandbox.Limits]:
    """Limits of a few seconds, and the text by which the command lines of what runs are found again."""
    seconds = 4 + random.Random(os.getpid() ^ time.time_ns()).random()
    return repr(seconds), sandbox.Limits(cpu_seconds=1, wall_seconds=seconds, memory_mb=256)


@pytest.mark.parametrize("name", ESCAPES)
def test_escape(name, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    for folder in ("temporary", "home"):
        (tmp_path / folder).mkdir()
    secret = tmp_path / "home/secret"
    secret.write_text("private")
    mark, limits = marked_limits()
    with socket.create_server(("127.0.0.1", 0)) as server:
        program = ESCAPES[name].replace("{port}", str(server.getsockname()[1]))
        program = program.replace("{secret!r}", repr(str(secret)))
        tests = "def check(f):\n    assert f(1) == 2\ncheck(f)\n" if "check" in program else TESTS
        outcome, detail = sandbox.run(program, tests, limits=limits)
    assert outcome in ("wrong", "error", "timeout"), detail
    assert gone(mark), "a process is left"
    assert [path.name for path in secret.parent.iterdir()] == ["secret"] and secret.read_text() == "private"
    assert not list((tmp_path / "temporary").iterdir()), "a file is left"
    assert sandbox.run(HONEST, TESTS) == ("right", "")


@pytest.mark.parametrize("name", ["os.getppid()", "-1", "1"])
def test_signals_reach_nobody_outside(name):
    """Process 1 of the namespace takes no signals from inside, and no process outside has a number in it."""
    mark, limits = marked_limits()
    bystander = subprocess.Popen(["sleep", "60"])
    program = f"import os\ntry:\n    os.kill({name}, 9)\nexcept OSError:\n    pass\n{HONEST}"
    sandbox.run(program, TESTS, limits=limits)
    assert bystander.poll() is None and gone(mark)
    bystander.kill()
    bystander.wait()


def test_a_bounded_number_of_processes():
    """Root is not bound by the kernel's limit, so this test matters most when run as root."""
    program = (
        "import os, time\nn = 0\ntry:\n    while n < 100:\n        if os.fork() == 0:\n            time.sleep(10)\n"
        "            os._exit(0)\n        n += 1\nexcept OSError:\n    pass\n"
    )
    assert sandbox.run(program, f"assert 0 < n < {sandbox.DEFAULT_LIMITS.processes}") == ("right", "")


def test_home_is_not_readable():
    home = Path.home()
    private = [path.name for path in home.iterdir() if not Path(sys.base_prefix).is_relative_to(path)]
    if not private:
        pytest.skip("home is empty")
    program = f"import os\ndef f():\n    return os.listdir({str(home)!r})"
    assert sandbox.run(program, f"assert {private[0]!r} in f()")[0] in ("wrong", "error")


@pytest.mark.parametrize("kind", SANDBOXES)
@pytest.mark.parametrize(
    "program,tests",
    [
        ("import math\nfrom typing import List\ndef f(x: List[int]):\n    return math.sqrt(x[0])", "assert f([4]) == 2.0"),
        ("def f():\n    return [(1, 2)]", "assert f() == [(1, 2)] and f() != [[1, 2]]"),
        ("def f(n):\n    yield from range(n)", "assert list(f(3)) == [0, 1, 2]"),
        ("def f(x):\n    x.sort()", "a = [2, 1]\nf(a)\nassert a == [1, 2]"),
        ("class P:\n    def __init__(self, v): self.v = v\n    def __eq__(self, o): return self.v == o.v\ndef f(n):\n    return P(n)",
         "assert f(1) == P(1) and f(1) != P(2)"),
        ("from dataclasses import dataclass\n@dataclass\nclass P:\n    v: 'int'\ndef f(n):\n    return P(n)", "assert f(1) == P(1)"),
        ("def f(x):\n    raise KeyError('k')", "try:\n    f(1)\n    assert False\nexcept KeyError:\n    pass"),
        ("import re\ndef f(x):\n    return re.match('a', x)", "assert f('a')\nassert not f('b')"),
        ("from functools import lru_cache\n@lru_cache\ndef f(x):\n    return 1 if x < 2 else f(x - 1) + f(x - 2)", "assert f(80) > 0"),
        ("def f():\n    return 10 ** 5000", "assert len(str(f())) == 5001"),
        ("print('x' * 10 ** 6)\ndef f():\n    return 1", "print('x' * 10 ** 6)\nassert f() == 1"),
        ("def f(x):\n    return '\\ud800é\\n'", "assert f(1) == '\\ud800é\\n'"),
        ("def f(path):\n    with open(path, 'w') as file:\n        file.write('x')\n    return open(path).read()", "assert f('a.txt') == 'x'"),
    ],
)  # fmt: skip
def test_honest_programs_pass(program, tests, kind):
    assert sandbox.run(program, tests, kind) == ("right", "")


def test_threads_and_processes():
    program = (
        "import subprocess, threading\ndef f():\n    r = []\n    t = threading.Thread(target=r.append, args=(1,))\n"
        "    t.start()\n    t.join()\n    return r, subprocess.run(['/bin/echo', '2'], capture_output=True).stdout"
    )
    assert sandbox.run(program, "assert f() == ([1], b'2\\n')") == ("right", "")


@pytest.mark.parametrize("kind", SANDBOXES)
def test_evalplus_rows(kind):
    """Rows of HumanEval+ and MBPP+ bring numpy and their own loop of many inputs."""
    pytest.importorskip("numpy")
    loop = (
        "import numpy as np\ninputs = [[[i, i]] for i in range(50)]\nresults = [2.0 * i for i in range(50)]\n"
        "for inp, exp in zip(inputs, results):\n    assert np.allclose({name}(*inp), exp)\n"
    )
    plus = {"code": "def s(x):\n    return sum(x)", "test_imports": [], "test_list": [], "test": loop.format(name="s")}
    doc = {"prompt": "def s(x):\n", "entry_point": "s"}
    doc["prompt"] += '    """Sum."""\n'
    doc["test"] = "def check(candidate):\n" + "".join(f"    {x}\n" for x in loop.format(name="candidate").splitlines())
    right, wrong = (f"```python\ndef s(x):\n    return {b}\n```" for b in ("sum(x)", "2 * x[0] if x[0] < 49 else 0"))
    for metric, row in ((mbpp, plus), (humaneval, doc)):
        assert metric.score(row, right, confirm_run_unsafe_code=True, sandbox=kind)
        assert not metric.score(row, wrong, confirm_run_unsafe_code=True, sandbox=kind)


def test_large_tests():
    """Rows of EvalPlus can hold a megabyte of tests, more than a socket buffers."""
    tests = f"data = {list(range(300_000))}\nassert f(data[-1]) == 300_000"
    assert sandbox.run(HONEST, tests) == ("right", "")
    stuck = "import os\nfor d in range(8):\n    try:\n        os.write(d, b'loaded\\n')\n    except OSError:\n        pass\nimport time\ntime.sleep(60)"
    assert sandbox.run(stuck, tests, limits=marked_limits()[1])[0] == "timeout"


@pytest.mark.parametrize("kind", SANDBOXES)
def test_failures_say_why(kind):
    def outcome(program, limits=sandbox.DEFAULT_LIMITS):
        return sandbox.run(program, TESTS, kind, limits)

    assert outcome("def f(x):\n    return x * 2") == ("wrong", "assert f(2) == 3")
    assert outcome("def f(x):\n    return x / 0") == ("error", "ZeroDivisionError: division by zero")
    assert outcome("x = 1") == ("error", "NameError: name 'f' is not defined")
    assert outcome("raise SystemExit(3)") == ("error", "SystemExit: 3")
    assert outcome("import os\nos._exit(3)") == ("error", "the program ended early (status 3)")
    short = sandbox.Limits(cpu_seconds=1, wall_seconds=30)
    assert outcome("while True: pass", short) == ("timeout", "the program used up its CPU time")
    short = sandbox.Limits(wall_seconds=1)
    assert outcome("import time\ntime.sleep(60)", short) == ("timeout", "no result after 1 s")


def test_without_isolation_there_is_one_notice(capsys):
    sandbox.notice.cache_clear()
    for _ in range(2):
        sandbox.check(Scoring(confirm_run_unsafe_code=True, sandbox="none"))
    assert capsys.readouterr().err.count("NOTICE: --sandbox none: generated programs run as you") == 1


def test_without_bubblewrap_nothing_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    scoring = Scoring(confirm_run_unsafe_code=True)
    row = {"test_setup_code": "", "test_list": ["assert True"]}
    with pytest.raises(sandbox.SandboxError, match=r"apt install bubblewrap .*--sandbox none"):
        mbpp.judge(row, "x = 1", scoring)
    assert mbpp.judge(row, "x = 1", Scoring(confirm_run_unsafe_code=True, sandbox="none")).right


def test_a_broken_sandbox_is_no_verdict(tmp_path, monkeypatch):
    """A bwrap that cannot make its namespaces, as in an unprivileged container."""
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\necho 'bwrap: No permissions to create a new namespace' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(sandbox.SandboxError, match="No permissions to create a new namespace"):
        sandbox.run(HONEST, TESTS)


AS_USER = """
import json, sys
sys.path.insert(0, sys.argv[1])
from evaluation.metrics import sandbox
limits = sandbox.Limits(cpu_seconds=1, wall_seconds=4, memory_mb=256)
programs, tests = json.load(sys.stdin)
print(json.dumps({name: sandbox.run(program, tests, limits=limits) for name, program in programs.items()}))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="every other test of this file runs as a plain user already")
def test_as_a_plain_user():
    """Root becomes a plain user, whose sandbox is a user namespace; with an interpreter that such a user can read."""
    python = "/usr/bin/python3"
    recent = [python, "-c", "import sys; sys.exit(sys.version_info < (3, 10))"]
    if not os.path.exists(python) or subprocess.run(recent).returncode:
        pytest.skip(f"{python} is not there, or too old")
    names = ("thread bomb", "fork bomb", "user namespace", "reading a file", "network", "changing the system")
    programs = {name: ESCAPES[name].replace("{secret!r}", "'/etc/passwd'").replace("{port}", "1") for name in names}
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        copy = Path(folder) / "evaluation/metrics"
        copy.mkdir(parents=True)
        for name in ("sandbox.py", "driver.py", "verdict.py"):
            shutil.copy(ROOT / "evaluation/metrics" / name, copy)
        for path in (Path(folder), copy.parent, copy):
            path.chmod(0o755)
        text = json.dumps([programs | {"honest": HONEST}, TESTS])
        user = {"user": 65534, "group": 65534, "extra_groups": [], "cwd": "/"}
        words = [python, "-c", AS_USER, folder]
        done = subprocess.run(words, input=text, capture_output=True, text=True, **user)
    if "SandboxError" in done.stderr and "namespace" in done.stderr:
        pytest.skip("this system gives plain users no user namespaces")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.pop("honest") == ["right", ""]
    assert all(outcome in ("wrong", "error", "timeout") for outcome, _ in found.values()), found
