"""What a run trains and evaluates on: prepared answers, or recorded trajectories of the same teacher and data."""

from pathlib import Path

from torch.utils.data import Subset

from cd4lm.config import require
from cd4lm.data.examples import AnswerCollator, AnswerDataset, encode_prompt
from cd4lm.data.rows import read_jsonl
from cd4lm.data.trajectories import (
    PathCollator,
    PrivilegedCollator,
    TrajectoryCollator,
    TrajectoryDataset,
    check_manifest,
    read_manifest,
)
from cd4lm.model import DiffusionLM
from cd4lm.model.loading import load_config
from cd4lm.settings import ExperimentConfig
from cd4lm.training.cad_eval import CADEvaluator, score_of
from cd4lm.training.collect_trajectories import settings_provenance, train_rows, weights_digest


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


def path_data(
    config: ExperimentConfig,
    tokenizer,
    collator: type[PathCollator] = PathCollator,
    beside: dict[int, list[int]] | None = None,
    name: str = "nothing",
) -> dict:
    """Recorded paths, some of them for evaluation, each with what stands beside its question, under a name.

    Alone, and of every question, they are d3LLM's data.
    """
    folder, limit = Path(config.trajectories.dir), config.train.eval_rows
    hidden = config.cdlm is not None and config.cdlm.distillation > 0
    how = {"name": name, "hidden": hidden, "skip_broken": config.trajectories.skip_broken_shards}
    paths, held_out = (TrajectoryDataset(folder, beside, held_out=part, **how) for part in (False, True))
    return {
        "train_dataset": paths,
        "eval_dataset": held_out if limit is None else Subset(held_out, range(min(limit, len(held_out)))),
        "data_collator": collator(tokenizer.pad_token_id, config.format.attend_padding),
    }


def trajectory_data(config: ExperimentConfig, tokenizer) -> dict:
    """CDLM's data: recorded paths and the data's answers to the same questions."""
    answers = load_split(config, "train", tokenizer)
    truth = {example["example_id"]: example["answer"] for example in answers.examples}
    return path_data(config, tokenizer, TrajectoryCollator, truth, "truth")


def privileged_data(config: ExperimentConfig, tokenizer) -> dict:
    """TAD's data: recorded paths, and the prompt that shows the teacher the data's answer.

    Questions for which that leaves too little room for the canvas are left out, and their number is printed.
    """
    positions, asked = load_config(config.teacher).max_sequence_length, config.tad.max_length
    fits = asked is None or asked <= positions
    require(fits, f"tad.max_length={asked} exceeds the {positions} positions of {config.teacher}: lower it")
    longest, canvas = asked or positions, config.format.answer_length
    prompts = {}
    for number, row in enumerate(train_rows(config, ("question", "answer"))):
        told = config.tad.system.replace("{answer}", row["answer"])
        prompts[number] = encode_prompt(tokenizer, row["question"], system=told)
    fitting = {number: ids for number, ids in prompts.items() if len(ids) + canvas <= longest}
    left_out = (
        f"{len(prompts) - len(fitting)} of {len(prompts)} questions with their answer and {canvas} tokens of canvas"
    )
    require(
        bool(fitting), f"tad: {left_out} are longer than {longest} tokens: shorten the answers or raise tad.max_length"
    )
    if len(fitting) < len(prompts):
        print(f"tad: left out {left_out}, longer than {longest} tokens")
    return path_data(config, tokenizer, PrivilegedCollator, fitting, "privileged")


def check_settings_of_paths(config: ExperimentConfig, tokenizer) -> None:
    """Raise ValueError if the paths come from other data, prompts or blocks; reads no weights."""
    folder = Path(config.trajectories.dir)
    check_manifest(read_manifest(folder), settings_provenance(config, tokenizer), folder)


def check_teacher_of_paths(config: ExperimentConfig, teacher: DiffusionLM) -> None:
    """Raise ValueError if another teacher walked the paths."""
    folder = Path(config.trajectories.dir)
    check_manifest(read_manifest(folder), {"teacher": weights_digest(teacher)}, folder)


def cad_evaluator(config: ExperimentConfig, tokenizer) -> CADEvaluator | None:
    """The evaluator of cad_eval on the first problems of the validation split; None where the config has none."""
    if config.cad_eval is None:
        return None
    rows = read_jsonl(Path(config.data.dir) / "validation.jsonl")[: config.cad_eval.problems]
    return CADEvaluator(rows, tokenizer, config.format, config.cad_eval, score_of(config.cad_eval.metric))
