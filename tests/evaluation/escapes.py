"""Programs that try to escape the sandbox or to pass without an answer, with the tests that they must not pass."""

HONEST = "def f(x):\n    return x + 1\n"
TESTS = "assert f(1) == 2\nassert f(2) == 3\n"

# Each is a whole program that must not pass; {secret!r} stands for a file outside, {port} for a server on this machine.
ESCAPES = {
    "os._exit at once": "import os\nos._exit(0)",
    "os._exit in the function": "import os\ndef f(x):\n    os._exit(0)",
    "sys.exit": "import sys\ndef f(x):\n    sys.exit(0)",
    "sys.exit at once": "import sys\nsys.exit(0)",
    "BaseException": "class E(BaseException): pass\ndef f(x):\n    raise E",
    "fake pass": "print('right')\nprint('[\"right\", \"\"]')\ndef f(x):\n    print('passed')",
    "fake pass to every descriptor": (
        "import os\ndef f(x):\n    for d in range(64):\n        try:\n            os.write(d, b'[\"right\", \"\"]\\n')\n"
        "        except OSError:\n            pass\n    os._exit(0)"
    ),
    "every descriptor copied to every other": (
        "import os\ndata = []\nfor d in range(64):\n    try:\n        os.set_blocking(d, False)\n        data.append(os.read(d, 999))\n"
        "    except OSError:\n        pass\nfor d in range(64):\n    try:\n        os.write(d, b'\\n'.join(data) + b'\\n')\n"
        "    except OSError:\n        pass\nos._exit(0)"
    ),
    "descriptors closed": "import os\nos.closerange(0, 64)\ndef f(x):\n    return 0",
    "descriptors closed, then at rest": "import os, time\nos.closerange(0, 64)\ntime.sleep(600)",
    "at exit": "import atexit, os\natexit.register(print, 'passed')\ndef f(x):\n    raise SystemExit(0)",
    "a thread that prints": (
        "import os, threading, time\ndef show():\n    while True:\n        for d in range(8):\n            try:\n"
        "                os.write(d, b'right\\n')\n            except OSError:\n                pass\n        time.sleep(0.01)\n"
        "threading.Thread(target=show, daemon=True).start()\ndef f(x):\n    return 0"
    ),
    "builtins and modules patched": (
        "import builtins, os, json, sys, traceback\n"
        "builtins.AssertionError = builtins.BaseException = builtins.Exception = ZeroDivisionError\n"
        "builtins.print = builtins.len = builtins.isinstance = lambda *a, **k: True\n"
        "builtins.compile = lambda *a, **k: 'pass'\nbuiltins.exec = builtins.exit = lambda *a, **k: None\n"
        "os.read = os.write = lambda *a: b''\nos._exit = lambda *a: None\njson.loads = lambda *a: ['right', '']\n"
        "json.dumps = lambda *a: '[\"right\", \"\"]'\ntraceback.extract_tb = lambda *a: []\ndef f(x):\n    return 0"
    ),
    "the driver's names patched": (
        "import __main__\n__main__.describe = lambda *a: ('right', '')\n__main__.serve = __main__.main = lambda *a: None\n"
        "def f(x):\n    return 0"
    ),
    "the check function replaced": "def check(candidate): pass\ndef f(x):\n    return 0",
    "searching for the secret": (
        "import gc, re, sys\nhex32 = re.compile(rb'[0-9a-f]{32}')\ndef f(x):\n    frame, seen = sys._getframe(), []\n"
        "    while frame:\n        seen += list(frame.f_locals.values())\n        frame = frame.f_back\n"
        "    seen += [v for o in gc.get_objects() if type(o) is dict for v in o.values()]\n"
        "    assert [o for o in seen if type(o) in (str, bytes) and hex32.fullmatch(o.encode() if type(o) is str else o)]\n"
        "    return x + 1"
    ),
    "looking for the tests before they run": (
        "import gc, os, sys\nwords = sys.argv + list(os.environ.values()) + [sys.stdin.read()]\nframe = sys._getframe()\n"
        "while frame:\n    words += [str(v) for v in frame.f_locals.values()]\n    frame = frame.f_back\n"
        "words += [o for o in gc.get_objects() if isinstance(o, str)]\nassert any('f(2) == ' in w for w in words)\n" + HONEST
    ),
    "network": "import socket\nsocket.create_connection(('127.0.0.1', {port}), timeout=2)\n" + HONEST,
    "reading a file": "open({secret!r}).read()\n" + HONEST,
    "writing a file": "open({secret!r}, 'w').write('x')\n" + HONEST,
    "writing by name": "import os\nos.mkdir({secret!r} + '2')\n" + HONEST,
    "changing the system": "open('/usr/lib/x', 'w').write('x')\n" + HONEST,
    "reading the parent's memory": "import os\nopen(f'/proc/{os.getppid()}/mem', 'rb').close()\n" + HONEST,
    "killing the group": "import os\nos.killpg(0, 9)\n" + HONEST,
    # Bounded, so that a sandbox that does not stop it does no harm to the machine either.
    "fork bomb": "import os, time\nfor _ in range(6):\n    os.fork()\ntime.sleep(3)\n" + HONEST,
    "thread bomb": (
        "import threading, time\nfor _ in range(3000):\n    threading.Thread(target=time.sleep, args=(30,)).start()\n" + HONEST
    ),
    "sleeping programs in sessions of their own": (
        "import subprocess\nsubprocess.Popen(['/bin/sleep', '60'], start_new_session=True).wait()\n" + HONEST
    ),
    "memory bomb": "x = bytearray(3 << 30)\n" + HONEST,
    "memory bomb in steps": "x = []\nwhile True:\n    x.append(bytearray(1 << 24))\n" + HONEST,
    "disk bomb": (
        "i = 0\nwhile True:\n    with open(f'/tmp/{i}', 'wb') as file:\n        file.write(bytes(1 << 20))\n    i += 1\n" + HONEST
    ),
    "large file": "with open('/tmp/x', 'wb') as file:\n    file.write(bytes(1 << 22))\n" + HONEST,
    "user namespace": (
        "import ctypes\nassert ctypes.CDLL(None).unshare(0x10000000) == 0, 'user namespaces are off'\n" + HONEST
    ),
    "user 0": "import os\nos.setuid(0)\n" + HONEST,
    "endless loop": "while True:\n    pass",
    "endless loop that ignores signals": (
        "import signal\nfor s in (2, 15, 24):\n    signal.signal(s, signal.SIG_IGN)\ndef f(x):\n    while True:\n        pass"
    ),
    "endless print": "def f(x):\n    while True:\n        print('x' * 10000)",
    "endless stream to the tests": (
        "import os\nwhile True:\n    for d in range(8):\n        try:\n            os.write(d, b'x' * 10000)\n        except OSError:\n"
        "            pass"
    ),
    "sleeping": "import time\ndef f(x):\n    time.sleep(600)",
    "huge value": "def f(x):\n    return 'x' * (1 << 26)",
    "deep value": "def f(x):\n    y = []\n    for _ in range(10 ** 6):\n        y = [y]\n    return y",
    "endless error message": (
        "class E(Exception):\n    def __str__(self):\n        while True: pass\ndef f(x):\n    raise E"
    ),
    "crash": "import ctypes\nctypes.string_at(0)\n" + HONEST,
    "not defined": "x = 1",
    "no syntax": "def f(x:\n",
    "null byte": HONEST + "\0",
    "half a character": HONEST + "x = '\ud800'\n",
}  # fmt: skip
