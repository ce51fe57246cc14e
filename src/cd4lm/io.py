"""Files that are whole or not there, short hashes, and where a number was made."""

import hashlib
import json
import os
import platform
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from cd4lm.config import require

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("torch", "transformers", "accelerate", "lm_eval", "datasets", "math-verify", "tokenizers")
PIECE = 1 << 20


def write_text(path: Path, text: str) -> None:
    """Write a file, and the folders above it, so that it is never seen half-written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def write_json(path: Path, tree, indent: int | None = 2) -> None:
    """As write_text. Raises ValueError for NaN and infinities, which JSON does not have."""
    write_text(path, json.dumps(tree, indent=indent, allow_nan=False, ensure_ascii=False) + "\n")


def is_lfs_pointer(start: bytes) -> bool:
    """Whether a file that begins so is what Git LFS leaves where the file itself was not fetched."""
    return start.startswith(b"version https://git-lfs")


def check_writable(option: str, path: Path) -> None:
    """Raise ValueError before long work whose result could not be written to the file `path`."""
    folder = path.absolute().parent
    require(folder.is_dir(), f"{option} {path}: {folder} is not a folder: make it or choose another")
    require(not path.is_dir(), f"{option} {path} is a folder: name a file in it")
    require(os.access(folder, os.W_OK), f"{option} {path}: {folder} cannot be written: choose another folder")


def fingerprint(*parts) -> str:
    """16 hex digits over anything JSON can hold; what it cannot counts by its repr."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=repr).encode()).hexdigest()[:16]


def weights_fingerprint(folder: str | Path) -> str:
    """16 hex digits over name, size and first, middle and last megabyte of each weights file; a hub name as it is.

    Hashing all 16 GB of an 8B model would take longer than loading it; a retrained model differs in every piece.
    """
    found = hashlib.sha256()
    files = sorted(Path(folder).glob("*.safetensors")) + sorted(Path(folder).glob("pytorch_model*.bin"))
    for path in files:
        size = path.stat().st_size
        found.update(f"{path.name} {size}".encode())
        with open(path, "rb") as file:
            for start in (0, size // 2, max(0, size - PIECE)):
                file.seek(start)
                found.update(file.read(PIECE))
    return found.hexdigest()[:16] if files else str(folder)


def git_commit() -> str:
    """The commit of this repository, marked where files differ from it; `unknown` outside a git checkout."""
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
        status = subprocess.run(["git", "status", "--porcelain", "-uno"], cwd=ROOT, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit.stdout.strip() + (" with local changes" if status.stdout.strip() else "")


def versions() -> dict[str, str]:
    """Python and the libraries that a number may depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def device_name() -> str:
    """The GPU's name, or the processor's as its maker gives it."""
    import torch  # seconds to import, which a help text need not wait for

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def provenance() -> dict:
    """Where, when and with what a number was made."""
    import torch

    return {
        "commit": git_commit(),
        "device": device_name(),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
