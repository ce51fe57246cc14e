"""The commands that start a sandbox, with bubblewrap and without, and the limits inside it."""

import functools
import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from evaluation.metrics.sandbox import filter as call_filter
from evaluation.metrics.sandbox import landlock

HERE = Path(__file__).resolve().parent
ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "HOME": "/nonexistent",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
}
INTERPRETER_OPTIONS = ["-I", "-S", "-B", "-X", "utf8"]


@dataclass(frozen=True)
class Limits:
    """What one program may use; wall_seconds is generous, since a shared machine is slow."""

    cpu_seconds: int = 5
    wall_seconds: float = 30.0
    memory_mb: int = 1024
    file_mb: int = 1

    def __post_init__(self):
        for name, value in asdict(self).items():
            if value <= 0:
                raise ValueError(f"{name}={value} must be positive")


def options(limits: Limits, packages: str, *, read_only: bool, readable: list[str] | None = None) -> str:
    """The driver's argument; readable=None leaves reading as it is."""
    sandbox = {"packages": packages, "read_only": read_only, "readable": readable, "filter": call_filter.available()}
    return json.dumps(asdict(limits) | sandbox)


def interpreter_files() -> list[Path]:
    """What a program must be able to read outside /usr: the interpreter, its library, the loader's cache."""
    paths = (Path(os.path.realpath(sys.executable)), Path(sys.base_prefix) / "lib", Path("/etc/ld.so.cache"))
    return [path for path in paths if path.exists() and not path.is_relative_to("/usr")]


def packages() -> list[Path]:
    """Folders of the one package that programs and EvalPlus tests may import beside the standard library: numpy."""
    spec = importlib.util.find_spec("numpy")
    if spec is None or spec.origin is None:
        return []
    numpy = Path(spec.origin).parent
    return [folder for folder in (numpy, numpy.with_name("numpy.libs")) if folder.is_dir()]


def plain(limits: Limits, folder: Path) -> list[str]:
    """Command without bubblewrap; `folder` is the program's own."""
    (folder / "packages").mkdir()
    for package in packages():
        (folder / "packages" / package.name).symlink_to(package)
    readable = None
    if landlock.available():
        system = [
            Path(name) for name in ("/usr", "/lib", "/lib64", "/dev/null", "/dev/urandom") if os.path.exists(name)
        ]
        readable = [str(path) for path in (*system, *interpreter_files(), *packages(), folder)]
    argument = options(limits, str(folder / "packages"), read_only=True, readable=readable)
    return [sys.executable, *INTERPRETER_OPTIONS, str(HERE / "driver.py"), argument]


@functools.cache
def inside_bubblewrap(limits: Limits) -> list[str]:
    """Command with bubblewrap: only the interpreter, its libraries, numpy and the driver are there, all read-only."""
    interpreter = Path(os.path.realpath(sys.executable))
    words = ["bwrap", "--unshare-all", "--unshare-user", "--uid", "65534", "--gid", "65534", "--die-with-parent"]
    words += ["--new-session", "--hostname", "sandbox", "--cap-drop", "ALL", "--ro-bind", "/usr", "/usr"]
    for name in ("/lib", "/lib64", "/lib32", "/bin"):
        if os.path.islink(name):
            words += ["--symlink", os.readlink(name), name]
        elif os.path.isdir(name):
            words += ["--ro-bind", name, name]
    for path in interpreter_files():
        words += ["--ro-bind", str(path), str(path)]
    for package in packages():
        words += ["--ro-bind", str(package), f"/packages/{package.name}"]
    words += ["--ro-bind", str(HERE), "/sandbox"]
    for device in ("/dev/null", "/dev/urandom"):
        words += ["--dev-bind", device, device]
    described = subprocess.run(["bwrap", "--help"], capture_output=True, text=True)
    if "--size" in described.stdout + described.stderr:  # older ones cannot bound a tmpfs, which takes memory
        words += ["--size", str(16 << 20), "--tmpfs", "/tmp"]
    else:
        words += ["--dir", "/tmp"]
    words += ["--remount-ro", "/", "--chdir", "/tmp", "--", str(interpreter), *INTERPRETER_OPTIONS]
    return [*words, "/sandbox/driver.py", options(limits, "/packages", read_only=False)]
