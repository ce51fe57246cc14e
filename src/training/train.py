"""Distil a student with DSCD.

    python -m src.training.train configs/tiny.yaml [key=value ...]
    accelerate launch --config_file configs/accelerate_zero2_8gpu.yaml -m src.training.train configs/llada_8b_gsm8k.yaml

Writes <output_dir>/student (released layout, with tokenizer), training_log.jsonl and config.yaml. Run the same command
again to resume from the last checkpoint.
"""

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path

import torch
from transformers import EarlyStoppingCallback, TrainingArguments, set_seed

from src.config import command_line, dump, exit_with_message, load, require
from src.data.examples import AnswerCollator, AnswerDataset
from src.data.rows import read_jsonl
from src.decoding.generation_settings import GenerationSettings
from src.model import LLaDAConfig
from src.model.loading import load_tokenizer
from src.settings import ExperimentConfig, TrainConfig
from src.training.cad_eval import CADEvaluator, score_of
from src.training.consistency_loss import DSCDTrainer
from src.training.models import build_models, check_fit, check_packages
from src.training.resume import last_checkpoint


def training_arguments(config: TrainConfig, checkpoints: Path, *, cad_eval: bool = False) -> TrainingArguments:
    """Our settings in transformers' words; cad_eval: the best checkpoint is the one CAD does best with."""
    return TrainingArguments(
        output_dir=str(checkpoints),
        num_train_epochs=config.epochs,
        max_steps=-1 if config.max_steps is None else config.max_steps,
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.schedule,
        warmup_steps=config.warmup_steps,
        weight_decay=config.weight_decay,
        max_grad_norm=config.clip,
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=config.batch_size,
        gradient_accumulation_steps=config.accumulation,
        eval_strategy="steps",
        eval_steps=config.eval_every,
        save_steps=config.save_every,
        save_total_limit=2,
        load_best_model_at_end=config.patience is not None or cad_eval,
        metric_for_best_model="cad_score" if cad_eval else None,
        greater_is_better=True if cad_eval else None,
        optim="adamw_bnb_8bit" if config.optimizer == "adamw_8bit" else "adamw_torch_fused",
        logging_steps=config.log_every,
        bf16=config.bf16,
        gradient_checkpointing=config.gradient_checkpointing,
        # The reentrant kind needs inputs with a gradient, which frozen embeddings do not give.
        gradient_checkpointing_kwargs={"use_reentrant": False} if config.gradient_checkpointing else None,
        seed=config.seed,
        remove_unused_columns=False,
        label_names=[],
        report_to=[],
        logging_nan_inf_filter=False,  # a loss that is not finite stops the run instead of vanishing from the log
        use_cpu=not torch.cuda.is_available(),
    )


def load_split(config: ExperimentConfig, split: str, tokenizer, limit: int | None = None) -> AnswerDataset:
    """One split of the prepared data as token ids; rows that are too long are counted aloud, never cut."""
    path = Path(config.data.dir) / f"{split}.jsonl"
    require(path.is_file(), f"{path} does not exist: run scripts/prepare_data.py --output_dir {config.data.dir} first")
    dataset = AnswerDataset(read_jsonl(path)[:limit], tokenizer, config.format)
    if dataset.skipped:
        print(f"{split}: {dataset.skipped} rows longer than max_length={config.format.max_length} tokens left out")
    return dataset


def check_resume(config: ExperimentConfig, output: Path) -> None:
    """Refuse to continue a run whose settings were others, naming the first difference."""
    saved = load(ExperimentConfig, output / "config.yaml")
    for section in ("teacher", "data", "format", "dscd", "train", "lora"):
        before, now = vars(saved)[section], vars(config)[section]
        if before != now:
            if section != "teacher" and before is not None and now is not None:
                key = next(k for k in asdict(now) if asdict(before)[k] != asdict(now)[k])
                section, before, now = f"{section}.{key}", asdict(before)[key], asdict(now)[key]
            raise ValueError(
                f"{output} was started with {section}={before}, not {now}: resume with that or use another folder"
            )


def save_student(trainer: DSCDTrainer, tokenizer, config: ExperimentConfig, output: Path) -> None:
    """Write the student in the released layout; the folder appears only when it is complete."""
    partial = output / "student.partial"
    if config.lora is not None:
        save_merged(trainer, config, partial)
    else:
        trainer.model.to(getattr(torch, config.train.export_dtype))
        trainer.save_model(str(partial))  # consolidates sharded weights
    if trainer.is_world_process_zero():
        (partial / "training_args.bin").unlink(missing_ok=True)
        tokenizer.save_pretrained(partial)
        GenerationSettings.load(config.teacher).save(partial)
        lines = [json.dumps(entry) + "\n" for entry in trainer.state.log_history]
        (output / "training_log.jsonl").write_text("".join(lines))
        partial.rename(output / "student")
        shutil.rmtree(output / "checkpoints", ignore_errors=True)


def save_merged(trainer: DSCDTrainer, config: ExperimentConfig, folder: Path) -> None:
    """Write the student with its adapters merged, after comparing its logits with those before."""
    from src.training.lora import merge_adapters  # needs peft, which nothing else does

    rows = [trainer.eval_dataset[i] for i in range(min(4, len(trainer.eval_dataset)))]
    batch = {name: tensor.to(trainer.args.device) for name, tensor in trainer.data_collator(rows).items()}
    merged, change = merge_adapters(trainer.model, batch)
    if trainer.is_world_process_zero():
        print(f"adapters merged: logits changed by {change:.1e} of their norm")
        merged.to(getattr(torch, config.train.export_dtype)).save_pretrained(folder)


def cad_evaluator(config: ExperimentConfig, tokenizer) -> CADEvaluator | None:
    """The evaluator of cad_eval on the first problems of the validation split."""
    if config.cad_eval is None:
        return None
    rows = read_jsonl(Path(config.data.dir) / "validation.jsonl")[: config.cad_eval.problems]
    return CADEvaluator(rows, tokenizer, config.format, config.cad_eval, score_of(config.cad_eval.metric))


def train(config: ExperimentConfig) -> None:
    """Distil, resuming if checkpoints are there. Raises ValueError for unusable input before any training."""
    output = Path(config.output_dir)
    require(
        not (output / "student").exists(), f"{output}/student exists: the run is complete; delete it to train again"
    )
    output.mkdir(parents=True, exist_ok=True)
    checkpoints = output / "checkpoints"
    last = last_checkpoint(checkpoints)
    if last:
        check_resume(config, output)
    torch.set_flush_denormal(True)  # sharp attention leaves denormal gradients, which halve the speed of a CPU
    set_seed(config.train.seed)
    check_packages(config)
    arguments = training_arguments(config.train, checkpoints, cad_eval=config.cad_eval is not None)
    tokenizer = load_tokenizer(config.teacher)
    check_fit(LLaDAConfig.from_pretrained(config.teacher), tokenizer, config.format, config.teacher)
    rows = load_split(config, "train", tokenizer), load_split(config, "validation", tokenizer, config.train.eval_rows)
    evaluator = cad_evaluator(config, tokenizer)
    student, teacher = build_models(config, sharded=arguments.deepspeed_plugin is not None)
    trainer = DSCDTrainer(
        student,
        arguments,
        teacher=teacher,
        dscd=config.dscd,
        cad_eval=evaluator,
        group_by_length=config.train.group_by_length,
        train_dataset=rows[0],
        eval_dataset=rows[1],
        data_collator=AnswerCollator(tokenizer.pad_token_id, config.format.attend_padding),
        callbacks=[] if config.train.patience is None else [EarlyStoppingCallback(config.train.patience)],
    )
    if trainer.is_world_process_zero():
        dump(config, output / "config.yaml")
    trainer.train(resume_from_checkpoint=last)
    save_student(trainer, tokenizer, config, output)


def check_world_size() -> None:
    """Stop if fewer processes run than were asked for, which launchers do without a word."""
    asked, running = os.environ.get("NUM_PROCESSES"), int(os.environ.get("WORLD_SIZE", "1"))
    require(asked is None or int(asked) == running, f"NUM_PROCESSES={asked} but {running} run: check the launch file")


def main():
    config = load(ExperimentConfig, *command_line(__doc__))
    check_world_size()
    train(config)


if __name__ == "__main__":
    exit_with_message(main)
