"""What a run trains and evaluates on: prepared answers, or recorded trajectories of the same teacher and data."""

from pathlib import Path

import torch
from torch.utils.data import Subset

from cd4lm.config import require
from cd4lm.data.examples import AnswerCollator, AnswerDataset
from cd4lm.data.rows import read_jsonl
from cd4lm.data.trajectories import TrajectoryCollator, TrajectoryDataset, check_manifest, read_manifest
from cd4lm.model.loading import load_model
from cd4lm.settings import ExperimentConfig
from cd4lm.training.cad_eval import CADEvaluator, score_of
from cd4lm.training.collect_trajectories import provenance
from cd4lm.training.setup import is_own_teacher, low_precision


def load_split(config: ExperimentConfig, split: str, tokenizer, limit: int | None = None) -> AnswerDataset:
    """One split of the prepared data as token ids; rows that are too long are left out, and their number is printed."""
    path = Path(config.data.dir) / f"{split}.jsonl"
    require(path.is_file(), f"{path} does not exist: run scripts/prepare_data.py --output_dir {config.data.dir} first")
    dataset = AnswerDataset(read_jsonl(path)[:limit], tokenizer, config.format, str(path))
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
    skip, limit = config.trajectories.skip_broken_shards, config.train.eval_rows
    paths, held_out = (TrajectoryDataset(folder, truth, held_out=part, skip_broken=skip) for part in (False, True))
    return {
        "train_dataset": paths,
        "eval_dataset": held_out if limit is None else Subset(held_out, range(min(limit, len(held_out)))),
        "data_collator": TrajectoryCollator(tokenizer.pad_token_id, config.format.attend_padding),
    }


def check_trajectories(config: ExperimentConfig, tokenizer) -> torch.Tensor | None:
    """The teacher's head for the stored hidden states, None where it is the student's own frozen one.

    Raises ValueError if the trajectories come from another teacher, tokenizer or data set, or have other blocks.
    """
    teacher = load_model(config.teacher, dtype=low_precision(config.train))
    folder = Path(config.trajectories.dir)
    check_manifest(read_manifest(folder), provenance(config, teacher, tokenizer), folder)
    return None if is_own_teacher(config) else teacher.get_output_embeddings().weight.detach().clone()


def cad_evaluator(config: ExperimentConfig, tokenizer) -> CADEvaluator | None:
    """The evaluator of cad_eval on the first problems of the validation split; None where the config has none."""
    if config.cad_eval is None:
        return None
    rows = read_jsonl(Path(config.data.dir) / "validation.jsonl")[: config.cad_eval.problems]
    return CADEvaluator(rows, tokenizer, config.format, config.cad_eval, score_of(config.cad_eval.metric))
