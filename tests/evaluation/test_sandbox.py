"""Escapes of generated programs: each is stopped and counted as a failure, leaves nothing, and the next program runs."""

import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from evaluation.metrics import humaneval, sandbox
from evaluation.metrics.sandbox import filter as call_filter
from evaluation.metrics.sandbox import landlock
from tests.conftest import ROOT
from tests.evaluation.benchmarks import rows_of

BUBBLEWRAP = pytest.param(
    True, id="bubblewrap", marks=pytest.mark.skipif(shutil.which("bwrap") is None, reason="bwrap is not installed")
)
PLAIN = pytest.param(
    False, id="plain", marks=pytest.mark.skipif(not call_filter.available(), reason="no filter for this system")
)
SLOW_PLAIN = pytest.param(*PLAIN.values, id="plain", marks=[*PLAIN.marks, pytest.mark.slow])
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is whole on Linux only")

HONEST = "def f(x):\n    return x + 1\n"
TESTS = "assert f(1) == 2\nassert f(2) == 3\n"

# Each is the whole program; {target} is a file outside that must not appear, {secret} one that must not be read.
ESCAPES = {
    "os._exit at once": "import os\nos._exit(0)",
    "os._exit in the function": "import os\ndef f(x):\n    os._exit(0)",
    "sys.exit": "import sys\ndef f(x):\n    sys.exit(0)",
    "fake pass": "print('right')\nprint('[\"right\", \"\", \"secret\"]')\ndef f(x):\n    print('PASS')",
    "fake pass to every descriptor": (
        "import os\ndef f(x):\n    for d in range(64):\n        try:\n            os.write(d, b'[\"right\", \"\", \"x\"]\\n')\n"
        "        except OSError:\n            pass\n    os._exit(0)"
    ),
    "at exit": "import atexit, os\natexit.register(print, 'right')\ndef f(x):\n    raise SystemExit(0)",
    "builtins patched": (
        "import builtins, os, json\nbuiltins.AssertionError = builtins.print = builtins.len = lambda *a, **k: True\n"
        "builtins.isinstance = lambda *a: True\njson.dumps = lambda *a: '[\"right\"]'\ndef f(x):\n    return 0"
    ),
    "equal to everything": (
        "class E:\n    def __eq__(self, o): return True\n    def __bool__(self): return True\n"
        "    def __req__(self, o): return True\ndef f(x):\n    return E()"
    ),
    "an int equal to everything": "class I(int):\n    def __eq__(self, o): return True\ndef f(x):\n    return I(0)",
    "searching frames and memory": (
        "import gc, sys\ndef f(x):\n    frame = sys._getframe()\n    seen = []\n"
        "    while frame:\n        seen.append(frame.f_locals)\n        frame = frame.f_back\n"
        "    found = [o for o in gc.get_objects() if isinstance(o, dict) and 'secret' in o]\n"
        "    assert found\n    return x + 1"
    ),
    "searching arguments, environment, input": (
        "import os, sys\nall = ' '.join(sys.argv) + str(os.environ) + sys.stdin.read()\n"
        "def f(x):\n    assert 'secret' in all or 'assert' in all\n    return x + 1"
    ),
    "reading the tests' process": (
        "import os\nopen(f'/proc/{{os.getppid()}}/mem', 'rb').close()\ndef f(x):\n    return x + 1"
    ),
    "network": (
        "import socket\nsocket.create_connection(('127.0.0.1', {port}), timeout=2)\ndef f(x):\n    return x + 1"
    ),
    "reading a file": "open({secret!r}).read()\ndef f(x):\n    return x + 1",
    "writing a file": "open({target!r}, 'w').write('x')\ndef f(x):\n    return x + 1",
    "writing by name": "import os\nos.mkdir({target!r})\ndef f(x):\n    return x + 1",
    "killing the parent": "import os\nos.kill(os.getppid(), 9)\ndef f(x):\n    return x + 1",
    "killing the group": "import os\nos.killpg(0, 9)\ndef f(x):\n    return x + 1",
    # Bounded, so that a sandbox that does not stop it does no harm to the machine either.
    "fork bomb": (
        "import os, time\nfor _ in range(6):\n    os.fork()\ntime.sleep(3)\ndef f(x):\n    return x + 1"
    ),
    "programs": "import subprocess\nsubprocess.run(['/bin/sleep', '60'])\ndef f(x):\n    return x + 1",
    "memory bomb": "x = bytearray(3 << 30)\ndef f(x):\n    return x + 1",
    "memory bomb in steps": "x = []\nwhile True:\n    x.append(bytearray(1 << 24))\ndef f(x):\n    return x + 1",
    "thread bomb": (
        "import threading, time\nfor _ in range(3000):\n    threading.Thread(target=time.sleep, args=(30,)).start()\n"
        "def f(x):\n    return x + 1"
    ),
    "endless loop": "while True:\n    pass",
    "endless loop that ignores signals": (
        "import signal\nfor s in (2, 15, 24):\n    signal.signal(s, signal.SIG_IGN)\ndef f(x):\n    while True:\n        pass"
    ),
    "sleeping": "import time\ndef f(x):\n    time.sleep(600)",
    "huge value": "def f(x):\n    return 'x' * (1 << 26)",
    "huge output, then wrong": "def f(x):\n    for _ in range(2000):\n        print('x' * 10000)\n    return 0",
    "deep value": "def f(x):\n    y = []\n    for _ in range(10 ** 6):\n        y = [y]\n    return y",
    "crash": "import ctypes\nctypes.string_at(0)\ndef f(x):\n    return x + 1",
    "not defined": "x = 1",
    "no syntax": "def f(x:\n",
}  # fmt: skip


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


@pytest.mark.parametrize("bubblewrap", [BUBBLEWRAP, SLOW_PLAIN])
@pytest.mark.parametrize("name", ESCAPES)
def test_escape(name, bubblewrap, tmp_path, monkeypatch):
    if name == "reading a file" and not bubblewrap and not landlock.available():
        pytest.skip("without bubblewrap and Landlock a program can read what the user can")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    for folder in ("temporary", "home"):
        (tmp_path / folder).mkdir()
    (tmp_path / "home/secret").write_text("private")
    mark = 4 + random.Random(os.getpid() ^ time.time_ns()).random()  # found again in the command lines of what runs
    limits = sandbox.Limits(cpu_seconds=1, wall_seconds=mark, memory_mb=256)
    with listening() as port:
        program = ESCAPES[name].replace("{port}", str(port)).replace("{{", "{").replace("}}", "}")
        program = program.replace("{target!r}", repr(str(tmp_path / "home/target")))
        program = program.replace("{secret!r}", repr(str(tmp_path / "home/secret")))
        start = time.monotonic()
        outcome, detail = sandbox.run(sandbox.Job(program, TESTS, ["f"], ["f"]), limits, bubblewrap=bubblewrap)
        seconds = time.monotonic() - start
    assert outcome != "right", detail
    assert seconds < 20
    assert not running(repr(mark)), "a process is left"
    assert [p.name for p in (tmp_path / "home").iterdir()] == ["secret"]
    assert not list((tmp_path / "temporary").iterdir()), "a file is left"
    honest = sandbox.run(sandbox.Job(HONEST, TESTS, ["f"], ["f"]), bubblewrap=bubblewrap)
    assert honest == ("right", "")


class listening:
    """A server on this machine that a program must not reach."""

    def __enter__(self) -> int:
        import socket

        self.server = socket.create_server(("127.0.0.1", 0))
        return self.server.getsockname()[1]

    def __exit__(self, *_):
        self.server.close()


@pytest.mark.parametrize("bubblewrap", [BUBBLEWRAP, PLAIN])
def test_home_is_not_readable(bubblewrap):
    if not bubblewrap and not landlock.available():
        pytest.skip("without bubblewrap and Landlock a program can read what the user can")
    home = Path.home()
    private = [p.name for p in home.iterdir() if not Path(sys.base_prefix).is_relative_to(p)]
    if not private:
        pytest.skip("home is empty")
    program = f"import os\ndef f():\n    return os.listdir({str(home)!r})"
    tests = f"assert {private[0]!r} in f()"
    outcome, _ = sandbox.run(sandbox.Job(program, tests, ["f"]), bubblewrap=bubblewrap)
    assert outcome in ("wrong", "error")


@pytest.mark.parametrize("bubblewrap", [BUBBLEWRAP, PLAIN])
@pytest.mark.parametrize(
    "program,tests",
    [
        ("import math\nfrom typing import List\ndef f(x: List[int]):\n    return math.sqrt(x[0])", "assert f([4]) == 2.0"),
        ("def f():\n    return {(1, 2): [None, True, b'x', 2j, {3}, frozenset({4}), 10 ** 5000]}",
         "assert f() == {(1, 2): [None, True, b'x', 2j, {3}, frozenset({4}), 10 ** 5000]}\nassert type(f()) is dict"),
        ("def f():\n    return [(1, 2)]", "assert f() == [(1, 2)] and f() != [[1, 2]]"),
        ("def f(n):\n    yield from range(n)", "assert list(f(3)) == [0, 1, 2]"),
        ("class Node:\n    def __init__(self, v):\n        self.v, self.next = v, None\ndef f(n):\n    return n.v + n.next.v",
         "a = Node(1)\na.next = Node(2)\nassert f(a) == 3 and a.next.v == 2 and a == a and a != a.next"),
        ("def f(x):\n    raise KeyError('k')", "try:\n    f(1)\n    assert False\nexcept KeyError:\n    pass"),
        ("import math\ndef f(x):\n    return math.nan", "assert math.isnan(f(1))"),
        ("import re\ndef f(x):\n    return re.match('a', x)", "assert f('a')\nassert not f('b')"),
        ("from collections import Counter\ndef f(x):\n    return Counter(x)", "assert f('aab') == {'a': 2, 'b': 1}"),
        ("from functools import lru_cache\n@lru_cache\ndef f(x):\n    return 1 if x < 2 else f(x - 1) + f(x - 2)", "assert f(80) > 0"),
        ("import threading\ndef f():\n    r = []\n    t = threading.Thread(target=r.append, args=(1,))\n    t.start()\n    t.join()\n    return r",
         "assert f() == [1]"),
        ("print('x' * 10 ** 6)\ndef f():\n    return 1", "assert f() == 1"),
        ("import tempfile\ndef f(x):\n    return '\\ud800é\\n'", "assert f(1) == '\\ud800é\\n'"),
    ],
)  # fmt: skip
def test_honest_programs_pass(program, tests, bubblewrap):
    names = ["f", "Node", "math"]
    assert sandbox.run(sandbox.Job(program, tests, names), bubblewrap=bubblewrap) == ("right", "")


def test_a_program_cannot_replace_what_the_tests_use():
    program = "def f(x):\n    return 0\ndef abs(x):\n    return 0\nclass math:\n    isclose = lambda a, b: True\n"
    from evaluation.metrics import mbpp

    row = {"code": "def f(x):\n    return x", "test_setup_code": "", "test_list": ["assert abs(f(5) - 5) < 1"]}
    assert mbpp.judge(row, f"```python\n{program}\n```", confirm_run_unsafe_code=True).outcome == "wrong"
    row = row | {"test_list": ["assert math.isclose(f(5), 5)"], "test_setup_code": "import math"}
    assert mbpp.judge(row, f"```python\n{program}\n```", confirm_run_unsafe_code=True).outcome == "wrong"


def test_the_prompts_own_helpers_are_used():
    row = next(row for row in rows_of("humaneval") if row["entry_point"] == "find_zero")
    cheat = "def poly(xs, x):\n    return 0\ndef find_zero(xs):\n    return 0"
    assert humaneval.judge(row, f"```python\n{cheat}\n```", confirm_run_unsafe_code=True).outcome == "wrong"


def test_evalplus_rows():
    """Rows of HumanEval+ and MBPP+ bring numpy and their own loop of many inputs."""
    from evaluation.metrics import mbpp

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
    assert mbpp.score(plus, right, confirm_run_unsafe_code=True)
    assert not mbpp.score(plus, wrong, confirm_run_unsafe_code=True)
    assert humaneval.score(doc, right, confirm_run_unsafe_code=True)
    assert not humaneval.score(doc, wrong, confirm_run_unsafe_code=True)


def test_failures_say_why():
    def outcome(program):
        return sandbox.run(sandbox.Job(program, TESTS, ["f"], ["f"]))

    assert outcome("def f(x):\n    return x * 2") == ("wrong", "assert f(2) == 3")
    assert outcome("def f(x):\n    return x / 0")[0] == "error" and "ZeroDivision" in outcome("def f(x):\n    1 / 0")[1]
    assert outcome("x = 1") == ("error", "the program does not define f")


def test_without_bubblewrap_there_is_one_notice(tmp_path):
    """A fresh interpreter that finds no bwrap."""
    program = (
        "import sys\nsys.path.insert(0, sys.argv[1])\nfrom evaluation.metrics import sandbox\n"
        "for _ in range(2):\n    print(sandbox.run(sandbox.Job('def f(): return 1', 'assert f() == 1', ['f'])))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(ROOT)], capture_output=True, text=True, env={"PATH": str(tmp_path)}
    )
    assert done.stdout == "('right', '')\n" * 2, done.stderr
    assert done.stderr.count("NOTICE: generated code runs WITHOUT bubblewrap: bwrap is not installed") == 1


def test_a_broken_sandbox_is_no_verdict(monkeypatch):
    from evaluation.metrics.sandbox import inside_bubblewrap

    inside_bubblewrap.cache_clear()
    monkeypatch.setattr(sandbox, "plain", lambda *_: [sys.executable, "-c", "raise SystemExit('cannot start')"])
    with pytest.raises(sandbox.SandboxError, match="cannot start"):
        sandbox.run(sandbox.Job(HONEST, TESTS, ["f"]), bubblewrap=False)


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_is_whole(machine):
    """Every jump of the program lands inside it, and it is short enough for the kernel."""
    import struct

    for read_only in (True, False):
        program = call_filter.build(machine, read_only)
        steps = [struct.unpack("HBBI", program[i : i + 8]) for i in range(0, len(program), 8)]
        assert len(steps) < 4096 and steps[-1][0] == call_filter.RETURN
        for i, (code, if_true, if_false, _) in enumerate(steps):
            if code not in (call_filter.LOAD, call_filter.RETURN):
                assert i + 1 + max(if_true, if_false) < len(steps)
