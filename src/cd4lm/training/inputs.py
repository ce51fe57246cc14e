"""What a run trains on: the prepared answers, or recorded trajectories checked against teacher, tokenizer and data."""

from pathlib import Path

import torch
from torch.utils.data import Subset

from cd4lm.config import require
from cd4lm.data.examples import AnswerCollator, AnswerDataset
from cd4lm.data.rows import read_jsonl
from cd4lm.data.trajectories import TrajectoryCollator, TrajectoryDataset, check_manifest, read_manifest
from cd4lm.model.loading import load_model
from cd4lm.settings import ExperimentConfig
from cd4lm.training.collect_trajectories import provenance
from cd4lm.training.setup import is_own_teacher, low_precision


def load_split(config: ExperimentConfig, split: str, tokenizer, limit: int | None = None) -> AnswerDataset:
    """One split of the prepared data as token ids; rows that are too long are counted aloud, never cut."""
    path = Path(config.data.dir) / f"{split}.jsonl"
    require(path.is_file(), f"{path} does not exist: run scripts/prepare_data.py --output_dir {config.data.dir} first")
    dataset = AnswerDataset(read_jsonl(path)[:limit], tokenizer, config.format)
    if dataset.skipped:
        print(f"{split}: {dataset.skipped} rows longer than max_length={config.format.max_length} tokens left out")
    return dataset


def answer_data(config: ExperimentConfig, tokenizer) -> dict:
    """DSCD's data: prompts and answers of the two splits."""
    return {
        "train_dataset": load_split(config, "train", tokenizer),
        "eval_dataset": load_split(config, "validation", tokenizer, config.train.eval_rows),
        "data_collator": AnswerCollator(tokenizer.pad_token_id, config.format.attend_padding),
    }


def trajectory_data(config: ExperimentConfig, tokenizer) -> dict:
    """CDLM's data: recorded paths, some of them for evaluation, and the data's answers to the same questions."""
    folder = Path(config.trajectories.dir)
    read_manifest(folder)
    answers = load_split(config, "train", tokenizer)
    truth = {example["example_id"]: example["answer"] for example in answers.examples}
    skip = config.trajectories.skip_broken_shards
    paths = [TrajectoryDataset(folder, truth, held_out=held_out, skip_broken=skip) for held_out in (False, True)]
    held_out = (
        paths[1]
        if config.train.eval_rows is None
        else Subset(paths[1], range(min(config.train.eval_rows, len(paths[1]))))
    )
    return {
        "train_dataset": paths[0],
        "eval_dataset": held_out,
        "data_collator": TrajectoryCollator(tokenizer.pad_token_id, config.format.attend_padding),
    }


def check_trajectories(config: ExperimentConfig, tokenizer) -> torch.Tensor | None:
    """The teacher's head for the stored hidden states, None where it is the student's own frozen one.

    Raises ValueError if the trajectories are another teacher's, tokenizer's or data set's, or of other blocks.
    """
    teacher = load_model(config.teacher, dtype=low_precision(config.train))
    folder = Path(config.trajectories.dir)
    check_manifest(read_manifest(folder), provenance(config, teacher, tokenizer), folder)
    return None if is_own_teacher(config) else teacher.get_output_embeddings().weight.detach().clone()
