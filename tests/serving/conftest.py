"""What the tests of serving share: block-causal checkpoints, our engine's answers, and a real server."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from cd4lm.decoding import ConfidenceAdaptive, DecodeConfig, DecodingOptions, decode_stream
from cd4lm.model.loading import load_network
from tests.conftest import BACKBONES, ROOT

BLOCK, CONTEXT = 16, 256  # of the random students
# A token that some of their answers have, and others not.
ENDS = {"llada": 57, "dream": 45, "illada": 36}


def random_student(backbone: str, folder: Path, **changes) -> Path:
    """Two layers with random weights; predictions differ from place to place, and now and then an answer ends early."""
    length = {"llada": "max_sequence_length"}.get(backbone, "max_position_embeddings")
    blocks = {"attention": "block_causal", "block_length": BLOCK, "block_grid": "absolute"}
    ends = {"eos_token_id": ENDS[backbone], "pad_token_id": ENDS[backbone], "bos_token_id": None}
    if backbone == "llada":
        del ends["bos_token_id"]
    BACKBONES[backbone](**({length: CONTEXT} | ends | blocks | changes)).save_pretrained(folder)
    DecodingOptions(gen_length=48, block_length=BLOCK, policy="cad", confidence_threshold=0.5).save(folder)
    return folder


def engine_answers(
    folder: Path,
    prompts: Sequence[Sequence[int]],
    *,
    threshold: float = 0.5,
    gen_length: int = 48,
    dtype: torch.dtype = torch.float32,
    eos_ids: tuple[int, ...] | None = None,
    stop_at_eos: bool = True,
    **settings,
) -> list[list[int]]:
    """What our engine answers with cache="block", up to and with the first EOS; every prompt with row id 0."""
    model = load_network(folder, dtype=dtype)
    config = model.config
    decoding = DecodeConfig(
        mask_id=config.mask_token_id,
        eos_ids=eos_ids or (config.eos_token_id,),
        gen_length=gen_length,
        block_length=config.block_length,
        cache="block",
        stop_at_eos=stop_at_eos,
        **settings,
    )
    tensors = [torch.tensor(prompt) for prompt in prompts]
    rows: list = [None] * len(prompts)
    ids = [0] * len(prompts)
    for part in decode_stream(
        model, tensors, ConfidenceAdaptive(threshold=threshold), decoding, batch_size=16, row_ids=ids
    ):
        for row, index in enumerate(part.index.tolist()):
            end = part.lengths[row].item() + 1 if stop_at_eos else gen_length
            rows[index] = part.tokens[row, :end].tolist()
    return rows


class Server:
    """A vLLM server of a student, in a process of its own."""

    def __init__(self, student: Path, log: Path, *options: str):
        self.student, self.log = student, log
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        words = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(student)]
        words += ["--served-model-name", "student", "--host", "127.0.0.1", "--port", str(self.port), *options]
        words += ["--dtype", "float32", "--enforce-eager", "--max-num-seqs", "16"]
        with open(log, "ab") as output:
            self.process = subprocess.Popen(words, stdout=output, stderr=output, start_new_session=True)
        self.url = f"http://127.0.0.1:{self.port}/v1"

    def wait(self, seconds: float = 900) -> "Server":
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5)
                return self
            except (urllib.error.URLError, OSError):
                time.sleep(1)
        raise TimeoutError(self.log.read_text()[-3000:])

    def kill(self) -> None:
        """As the kernel would: the server and whatever it started, at once."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@pytest.fixture(scope="session")
def student(tmp_path_factory) -> Path:
    """The student to serve: $STUDENT, else the embedded teacher's weights under block-causal attention, untrained for it."""
    if "STUDENT" in os.environ:
        return Path(os.environ["STUDENT"])
    folder = tmp_path_factory.mktemp("served") / "student"
    shutil.copytree(ROOT / "checkpoints/teachers/w8_90", folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"attention": "block_causal", "block_length": 8, "block_grid": "absolute"}
    (folder / "config.json").write_text(json.dumps(config))
    DecodingOptions(gen_length=48, block_length=8, policy="cad", confidence_threshold=0.9).save(folder)
    return folder
