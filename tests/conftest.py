"""Shared by all tests: small models on the CPU, and the reference checkpoint with the published programs' outputs."""

import os
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch

from cd4lm.config import exit_with_message
from cd4lm.data.tiny_tokenizer import build_tokenizer
from cd4lm.model import (
    DreamConfig,
    DreamModel,
    ILLaDAConfig,
    ILLaDAForCausalLM,
    LLaDAConfig,
    LLaDAModelLM,
)

ROOT = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(items):
    """Whole runs first and then training, whose files are long, so that no worker is left alone with one at the end."""
    items.sort(key=lambda item: (item.get_closest_marker("slow") is None, "training" not in item.nodeid))


@pytest.fixture(autouse=True)
def seeded_and_alone():
    """The same random numbers for every test, and no environment variable that another one has set."""
    torch.manual_seed(0)
    with mock.patch.dict(os.environ):
        yield


@pytest.fixture(scope="session")
def reference() -> Path:
    """A three-layer LLaDA with random weights in the released layout, and what the published programs compute on it."""
    return ROOT / "tests/fixtures/llada_reference"


@pytest.fixture(scope="session")
def tokenizer():
    return build_tokenizer()


def random_model(**changes) -> LLaDAModelLM:
    """Two layers with weights wide enough that predictions differ from place to place."""
    torch.manual_seed(1)
    shape = {"d_model": 32, "n_heads": 4, "n_layers": 2, "mlp_hidden_size": 48, "vocab_size": 60, "init_std": 0.3}
    ids = {"mask_token_id": 59, "eos_token_id": 57, "pad_token_id": 57, "max_sequence_length": 128}
    return LLaDAModelLM(LLaDAConfig(**(shape | ids | changes))).eval()


# random_model's shape under transformers' names, with grouped heads.
DECODER = {
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "intermediate_size": 48,
    "vocab_size": 60,
    "initializer_range": 0.3,
    "max_position_embeddings": 128,
    "mask_token_id": 59,
    "eos_token_id": 57,
    "pad_token_id": 57,
}


def random_dream(**changes) -> DreamModel:
    """As random_model in Dream's layout, with biases that matter."""
    torch.manual_seed(1)
    model = DreamModel(DreamConfig(**(DECODER | changes))).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def random_illada(**changes) -> ILLaDAForCausalLM:
    """As random_model in iLLaDA's layout."""
    torch.manual_seed(1)
    return ILLaDAForCausalLM(ILLaDAConfig(**(DECODER | changes))).eval()


BACKBONES = {"llada": random_model, "dream": random_dream, "illada": random_illada}


@pytest.fixture
def model() -> LLaDAModelLM:
    return random_model()


@pytest.fixture
def prompts() -> list[torch.Tensor]:
    """Ragged prompts for `model`."""
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(0, 57, (n,), generator=generator) for n in (3, 9, 20, 1, 7)]


@pytest.fixture
def run_main(monkeypatch, capsys):
    """Call main with the words of a command line; its exit message, None where it succeeds, and what it printed."""

    def call(main, *words) -> tuple[str | None, str]:
        monkeypatch.setattr(sys, "argv", ["command", *map(str, words)])
        monkeypatch.delenv("CD4LM_DEBUG", raising=False)
        message = None
        try:
            exit_with_message(main)
        except SystemExit as stop:
            message = str(stop.code)
        return message, capsys.readouterr().out

    return call


@pytest.fixture
def refused(run_main):
    """Assert that a command line stops with one line that holds the message."""

    def check(main, message: str, *words) -> None:
        said, _ = run_main(main, *words)
        assert said is not None and message in said and "\n" not in said, said

    return check
