"""Distil a student with DSCD, or with the objective whose section the config has: cdlm, dparallel, d3llm or tad.

    python -m cd4lm.training.train configs/tiny.yaml [key=value ...]
    python -m cd4lm.training.launch configs/llada_8b_gsm8k.yaml        # several processes

Writes <output_dir>/student (released layout, with tokenizer), training_log.jsonl and config.yaml. Run the same command
again to resume from the last checkpoint; after SIGTERM a checkpoint is saved and the exit status is 143.
"""

import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from transformers import EarlyStoppingCallback, PreTrainedTokenizerBase, TrainingArguments, set_seed

from cd4lm.config import command_line, dump, exit_with_message, load, require
from cd4lm.model import DiffusionLM
from cd4lm.model.loading import load_config, load_model, load_tokenizer, parameter_count
from cd4lm.progress import shown_elsewhere
from cd4lm.settings import ExperimentConfig, TrainConfig
from cd4lm.training.cad_eval import decoder_of
from cd4lm.training.cdlm import CDLMTrainer
from cd4lm.training.consistency_loss import DSCDTrainer
from cd4lm.training.d3llm import D3LLMTrainer
from cd4lm.training.dparallel import DParallelTrainer
from cd4lm.training.export import full_weights, write_released
from cd4lm.training.fit import check_fit, check_packages, student_config
from cd4lm.training.inputs import (
    answer_data,
    cad_evaluator,
    check_settings_of_paths,
    check_teacher_of_paths,
    path_data,
    privileged_data,
    trajectory_data,
)
from cd4lm.training.processes import check_world_size, prepare_deepspeed, processes_asked, rows_per_step, split_step
from cd4lm.training.resume import KEPT_CHECKPOINTS, NOT_TRAINING, check_output, check_resume, last_checkpoint, run_bytes
from cd4lm.training.setup import (
    build_student,
    build_teacher,
    is_own_teacher,
    low_precision,
    shard_frozen,
)
from cd4lm.training.tad import TADTrainer
from cd4lm.training.trainer import StudentTrainer


@dataclass(frozen=True)
class Training:
    """How an objective is trained: its trainer and data, and whether the frozen teacher runs beside the student."""

    trainer: type[StudentTrainer]
    data: Callable[[ExperimentConfig, PreTrainedTokenizerBase], dict]
    runs_teacher: bool = False


TRAINING = {
    "dscd": Training(DSCDTrainer, answer_data, runs_teacher=True),
    "cdlm": Training(CDLMTrainer, trajectory_data),
    "dparallel": Training(DParallelTrainer, answer_data),
    "d3llm": Training(D3LLMTrainer, path_data),
    "tad": Training(TADTrainer, privileged_data, runs_teacher=True),
}


def checkpointing() -> dict:
    """transformers' arguments for recomputed activations, under the name that its version knows (new in 5.24)."""
    names = {field.name for field in fields(TrainingArguments)}
    name = "activation_checkpointing" if "activation_checkpointing" in names else "gradient_checkpointing"
    # The reentrant kind needs inputs with a gradient, which frozen embeddings do not give.
    return {name: True, f"{name}_kwargs": {"use_reentrant": False}}


def training_arguments(
    config: TrainConfig, examples: int, checkpoints: Path, *, cad_eval: bool = False, alone: bool = False
) -> TrainingArguments:
    """Our settings as transformers' arguments, for a data set of so many examples.

    cad_eval: the best checkpoint is the one with the highest CAD score, instead of the one with the lowest loss.
    alone: the share of one of the processes, without the others.
    """
    processes, on_cpu = processes_asked(config), not torch.cuda.is_available()
    batch_size, accumulation = split_step(config, processes)
    return TrainingArguments(
        output_dir=str(checkpoints),
        max_steps=config.max_steps or math.ceil(config.epochs * examples / rows_per_step(config)),
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.schedule,
        warmup_steps=config.warmup_steps,
        weight_decay=config.weight_decay,
        adam_beta1=config.betas[0],
        adam_beta2=config.betas[1],
        max_grad_norm=config.clip,
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=batch_size,
        gradient_accumulation_steps=accumulation,
        eval_strategy="steps",
        eval_steps=config.eval_every,
        save_steps=config.save_every,
        save_total_limit=KEPT_CHECKPOINTS,
        restore_callback_states_from_checkpoint=True,  # patience goes on counting after a resume
        load_best_model_at_end=config.patience is not None or cad_eval,
        metric_for_best_model="cad_score" if cad_eval else None,
        greater_is_better=True if cad_eval else None,
        optim="adamw_bnb_8bit" if config.optimizer == "adamw_8bit" else "adamw_torch_fused",
        logging_steps=config.log_every,
        bf16=config.bf16,
        **(checkpointing() if config.gradient_checkpointing else {}),
        seed=config.seed,
        remove_unused_columns=False,
        label_names=[],
        report_to=[],
        disable_tqdm=shown_elsewhere(),
        logging_nan_inf_filter=False,  # what is not finite stops the run and must not be left out of the log
        ddp_find_unused_parameters=False,
        ddp_backend="gloo" if on_cpu and processes > 1 and not alone else None,
        use_cpu=on_cpu,
    )


def bytes_to_write(model: torch.nn.Module, config: ExperimentConfig) -> int:
    """Most bytes that checkpoints and student take on disk; with adapters, checkpoints hold the adapters alone."""
    whole = parameter_count(model.config)
    if config.lora is None:
        return run_bytes(whole)
    return run_bytes(sum(p.numel() for p in model.parameters() if p.requires_grad)) + 4 * whole


def save_student(trainer: StudentTrainer, config: ExperimentConfig, output: Path) -> None:
    """Write the student in the released layout; the folder appears only when it is complete."""
    weights = full_weights(trainer) if config.lora is None else merged_weights(trainer)
    if trainer.is_world_process_zero():
        write_released(weights, trainer.model.config, config.train.export_dtype, config.teacher, output / "student")
        shutil.rmtree(output / "checkpoints", ignore_errors=True)


def merged_weights(trainer: StudentTrainer) -> dict[str, torch.Tensor]:
    """The student's weights with its adapters added, after comparing its logits with those before."""
    from cd4lm.training.lora import merge_adapters  # needs peft, which nothing else does

    rows = [trainer.eval_dataset[i] for i in range(min(4, len(trainer.eval_dataset)))]
    batch = {name: tensor.to(trainer.args.device) for name, tensor in trainer.data_collator(rows).items()}
    merged, change = merge_adapters(trainer.model, batch)
    if trainer.is_world_process_zero():
        print(f"adapters merged: logits changed by {change:.1e} of their norm")
    return merged.state_dict()


def check_models(config: ExperimentConfig, tokenizer) -> None:
    """Raise ValueError for models, tokenizer or adapters that do not fit each other, before any weights are read."""
    check_packages(config)
    for folder in dict.fromkeys((config.teacher, config.init_from or config.teacher)):
        check_fit(load_config(folder), tokenizer, config.format, folder)
    student = student_config(config)
    if config.cad_eval is not None:
        decoder_of(config.cad_eval, config.format, student, tokenizer)
    if config.lora is not None:
        from cd4lm.training.lora import check_targets  # needs peft, which nothing else does

        check_targets(student, config.lora.targets)


def check_processes(config: TrainConfig, arguments: TrainingArguments) -> None:
    """Raise ValueError unless the processes asked for see each other, each with one device."""
    require(
        arguments.world_size == processes_asked(config) and arguments.n_gpu <= 1,
        f"{arguments.world_size} processes see each other and each sees {max(1, arguments.n_gpu)} device(s), but "
        f"{processes_asked(config)} were asked for: start with python -m cd4lm.training.launch",
    )


def teacher_of_paths(config: ExperimentConfig, teacher: DiffusionLM | None) -> dict:
    """Raise ValueError if another teacher walked the paths; what CDLM's trainer needs of them."""
    if not config.on_paths:
        return {}
    walked = teacher or load_model(config.teacher, dtype=low_precision(config.train))
    check_teacher_of_paths(config, walked)
    if config.cdlm is None:
        return {}
    head = None if is_own_teacher(config) else walked.get_output_embeddings().weight.detach().clone()
    return {"teacher_head": head, "block_length": config.trajectories.block_length, "grid": config.trajectories.grid}


def build_trainer(config: ExperimentConfig, output: Path) -> StudentTrainer:
    """Student, teacher and data, ready to train. Raises ValueError for unusable input."""
    prepare_deepspeed()
    set_seed(config.train.seed)
    load_config(config.teacher)  # names what is wrong with a checkpoint; the tokenizer's library does not
    tokenizer = load_tokenizer(config.teacher)
    check_models(config, tokenizer)
    how = TRAINING[config.objective]
    if config.on_paths:
        check_settings_of_paths(config, tokenizer)
    data = how.data(config, tokenizer)
    common = {
        "cad_eval": cad_evaluator(config, tokenizer),
        "group_by_length": config.train.group_by_length,
        "folder": output,
        "callbacks": [] if config.train.patience is None else [EarlyStoppingCallback(config.train.patience)],
    }
    # Before the arguments: once they exist, ZeRO-3 would partition the teacher too, which only its own engine can run.
    teacher = build_teacher(config) if how.runs_teacher else None
    own = {config.objective: vars(config)[config.objective]} | teacher_of_paths(config, teacher)
    if how.runs_teacher:
        own |= {"teacher": teacher, "teacher_attention": load_config(config.teacher).attention}
    examples, cad_eval = len(data["train_dataset"]), config.cad_eval is not None
    arguments = training_arguments(config.train, examples, output / "checkpoints", cad_eval=cad_eval)
    check_processes(config.train, arguments)
    if config.train.shard_teacher and teacher is not None:
        shard_frozen(teacher, arguments.device)
    student = build_student(config, masters_elsewhere=arguments.deepspeed_plugin is not None)
    return how.trainer(student, arguments, **own, **common, **data)


def train(config: ExperimentConfig) -> None:
    """Distil, resuming if checkpoints are there. Raises ValueError for unusable input before any training."""
    output = Path(config.output_dir)
    require(
        not (output / "student").exists(), f"{output}/student exists: the run is complete; delete it to train again"
    )
    last = last_checkpoint(output / "checkpoints")
    if last:
        check_resume(config, output, free=NOT_TRAINING)
    torch.set_flush_denormal(True)  # sharp attention leaves denormal gradients, which halve the speed of a CPU
    trainer = build_trainer(config, output)
    if trainer.is_world_process_zero():
        check_output(output, bytes_to_write(trainer.model, config))
        dump(config, output / "config.yaml")
    trainer.train(resume_from_checkpoint=last)
    save_student(trainer, config, output)


def main():
    config = load(ExperimentConfig, *command_line(__doc__))
    check_world_size(config.train)
    train(config)


if __name__ == "__main__":
    exit_with_message(main)
