"""What a run was made with, so that its numbers can be traced and an interrupted run resumes only itself."""

import hashlib
import json
import os
import platform
import subprocess
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from evaluation.dllm_eval.answers import fingerprint

PACKAGES = ("torch", "transformers", "accelerate", "lm_eval", "datasets", "math-verify", "tokenizers")
PIECE = 1 << 20


def weights_hash(folder: str) -> str:
    """Hash over the name, size and first, middle and last megabyte of each weights file; the name alone for a hub model.

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
    return found.hexdigest()[:16] if files else folder


def git_commit() -> str:
    """The commit of this repository, marked where files differ from it; `unknown` outside a git checkout."""
    root = Path(__file__).resolve().parents[2]
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True)
        status = subprocess.run(["git", "status", "--porcelain", "-uno"], cwd=root, capture_output=True, text=True)
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


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"


def prompt_hashes(samples: dict[str, list[dict]]) -> dict[str, str]:
    """One hash per task over its prompts, chat template included, in the order of the documents."""
    return {task: fingerprint([row["prompt_hash"] for row in rows]) for task, rows in samples.items()}


def flat(tree: dict, prefix: str = "") -> dict:
    """A nested dictionary with dotted names."""
    values = {}
    for name, value in tree.items():
        values |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return values


def check_same_run(folder: Path, settings: dict, write: bool) -> None:
    """Remember the settings of a run in its folder; on a later start raise ValueError naming the first that differs."""
    file = folder / "settings.json"
    if file.is_file():
        stored, given = flat(json.loads(file.read_text())), flat(settings)
        for name in sorted({*stored, *given}):
            before, now = (values.get(name, None) for values in (stored, given))
            if before != now:
                raise ValueError(
                    f"{folder} was started with {name}={before}, not {now}: choose another --output_path, or give the "
                    "same settings to resume"
                )
    elif write:
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / "settings.json.partial"
        partial.write_text(json.dumps(settings, indent=2) + "\n")
        partial.replace(file)


def manifest(settings: dict, model, hashes: dict, decoders: dict) -> dict:
    """Commit, versions, device, dtype, seed, prompts, the full settings of every decoder used, and the run's own."""
    return {
        "commit": git_commit(),
        "versions": versions(),
        "device": device_name(model.device),
        "processes": model.world_size,
        "dtype": str(next(model.model.parameters()).dtype).removeprefix("torch."),
        "seed": model.seed,
        "prompt_hash": hashes,
        "decoders": {
            task: {"policy": type(d.policy).__name__, **asdict(d.policy), **asdict(d.config)}
            for task, d in decoders.items()
        },
        "settings": settings,
    }
