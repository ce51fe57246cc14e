"""A world small enough to train in a second: a random teacher with the embedded tokenizer, data, and a config."""

import json
from pathlib import Path

import yaml

from cd4lm.config import build
from cd4lm.data.rows import read_jsonl
from cd4lm.data.tiny_task import make_row
from cd4lm.data.tiny_tokenizer import build_tokenizer
from cd4lm.decoding.options import DecodingOptions
from cd4lm.settings import ExperimentConfig
from tests.conftest import BACKBONES

ROWS = 22  # no multiple of the rows of a step, so that a pass over the data ends inside one
TRAIN = {
    "max_steps": 6,
    "learning_rate": 1e-2,
    "schedule": "linear",
    "warmup_steps": 0,
    "batch_size": 4,
    "accumulation": 2,
    "eval_every": 3,
    "save_every": 2,
    "log_every": 4,
    "patience": None,
    "bf16": False,
    "gradient_checkpointing": False,
    "export_dtype": "float32",
}


def write_teacher_and_data(folder: Path, backbone: str = "llada") -> None:
    tokenizer = build_tokenizer()
    ids = {"mask_token_id": tokenizer.mask_token_id, "eos_token_id": tokenizer.eos_token_id}
    model = BACKBONES[backbone](vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **ids)
    model.save_pretrained(folder / "teacher")
    tokenizer.save_pretrained(folder / "teacher")
    DecodingOptions(gen_length=40, block_length=20).save(folder / "teacher")
    (folder / "data").mkdir()
    for seed, (split, count) in enumerate((("train", ROWS), ("validation", 8))):
        rows = [json.dumps(make_row("train", i, seed)) + "\n" for i in range(count)]
        (folder / f"data/{split}.jsonl").write_text("".join(rows))


def settings(folder: Path, name: str, **train) -> dict:
    """A config as YAML has it; the run writes folder/name."""
    return {
        "teacher": str(folder / "teacher"),
        "output_dir": str(folder / name),
        "data": {"dataset": "tiny", "dir": str(folder / "data")},
        "format": {"eos": "one", "answer_length": 40, "max_length": 128},
        "train": TRAIN | train,
    }


# What turns the settings above into CDLM's; blocks of 8, of which an answer of 40 has 5.
CDLM = {
    "block_causal": {"block_length": 8},
    "trajectories": {"block_length": 8, "shard_rows": 10, "batch_size": 7, "dtype": "float32"},
    "cdlm": {"consistency": 0.5, "denoising": 0.1},
}


# What turns CDLM's settings into another objective's, on the same paths and under the same block-causal mask.
OBJECTIVES = {
    "dscd": {"cdlm": None},
    "cdlm": {},
    "dparallel": {"cdlm": None, "dparallel": {"block_length": 8}},
    "d3llm": {"cdlm": None, "d3llm": {"block_lengths": [4, 6, 8]}},
    "tad": {"cdlm": None, "tad": {"delta": 6}},
}
PARTS = {
    "dscd": ("consistency", "reconstruction"),
    "cdlm": ("distillation", "consistency", "denoising"),
    "dparallel": ("reconstruction", "certainty"),
    "d3llm": ("reconstruction", "certainty"),
    "tad": ("reconstruction", "distillation"),
}
BIDIRECTIONAL = {"block_causal": None}
ADAPTERS = {"lora": {"rank": 4, "alpha": 32.0, "targets": [".*proj"]}}


def cdlm_settings(folder: Path, name: str, *, changes: dict | None = None, **train) -> dict:
    """A config of CDLM as YAML has it; changes: sections to replace, None to leave one out."""
    tree = settings(folder, name, **train) | CDLM | {"format": {"eos": "fill", "answer_length": 40, "max_length": 128}}
    tree["trajectories"] = {"dir": str(folder / "paths")} | tree["trajectories"]
    return tree | (changes or {})


def cdlm_config(folder: Path, name: str, **changes) -> ExperimentConfig:
    return build(ExperimentConfig, cdlm_settings(folder, name, **changes))


def objective_config(folder: Path, name: str, objective: str, *, changes: dict | None = None, **train):
    """As cdlm_config for any objective."""
    return cdlm_config(folder, name, changes=OBJECTIVES[objective] | (changes or {}), **train)


def config(folder: Path, name: str, **train) -> ExperimentConfig:
    return build(ExperimentConfig, settings(folder, name, **train))


def write_config(folder: Path, name: str, **train) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(settings(folder, name, **train)))
    return path


def steps(folder: Path) -> list[dict]:
    """The optimizer steps in a run's log."""
    return [entry for entry in read_jsonl(folder / "training_log.jsonl") if "loss" in entry]


LOSSES = ("step", "loss", "consistency", "reconstruction", "lambda", "grad_norm", "learning_rate", "epoch")
