"""Evaluate a checkpoint on benchmark tasks with lm-eval, decoding through this repository's engine.

    python evaluation/evaluation_script.py -m dllm_eval --model LLaDA --tasks dllm_gsm8k --batch_size 8 \\
        --model_args "pretrained=GSAI-ML/LLaDA-8B-Instruct" --output_path outputs/gsm8k --log_samples \\
        --gen_kwargs "use_dynamic=true,gen_length=256,block_length=32,confidence_threshold=0.95"

Give the same command again to resume an interrupted run. Several GPUs: torchrun --standalone --nproc_per_node 8 before it.
This repository's tasks are dllm_gsm8k dllm_math500 dllm_humaneval dllm_mbpp dllm_humaneval_plus dllm_mbpp_plus; lm-eval's
own go by their names. Under --protocol field these are gsm8k, minerva_math, humaneval and mbpp, with its shots, chat template
and canvas where the command says nothing else.
"""

import argparse
import logging
from dataclasses import fields
from pathlib import Path

from cd4lm.config import CommandParser, exit_with_message, require
from cd4lm.decoding.options import DecodingOptions
from evaluation.dllm_eval.options import PREFIX, ModelOptions, generation_pairs, is_ours
from evaluation.metrics import sandbox
from evaluation.metrics.scoring import RUNS_CODE
from evaluation.metrics.verdict import SANDBOXES, Scoring
from evaluation.protocol import NAMES, Protocol


def names(cls: type) -> str:
    return ", ".join(field.name for field in fields(cls) if field.name != "seed")


def parser() -> argparse.ArgumentParser:
    p = CommandParser(__doc__)
    p.add_argument("-m", dest="adapter", choices=["dllm_eval"], default="dllm_eval", help="the adapter package")
    p.add_argument("--model", choices=["LLaDA"], default="LLaDA", help="the model class of the adapter")
    p.add_argument("--tasks", required=True, help="names, separated by commas")
    p.add_argument("--model_args", required=True, help=f"key=value,...: {names(ModelOptions)}")
    p.add_argument("--gen_kwargs", default="", help=f"key=value,...: {names(DecodingOptions)}")
    p.add_argument("--batch_size", type=int, default=1, help="rows decoded together; changes no answer in float32")
    p.add_argument(
        "--samples", type=int, default=1, help="responses per document; right if one is (pass@k, k = samples)"
    )
    p.add_argument("--output_path", type=Path, required=True, help="folder for the run's record and the resume log")
    p.add_argument("--name", help="of the run in tables (default: the folder's)")
    p.add_argument("--log_samples", action="store_true", help="also write lm-eval's record of each sample")
    p.add_argument("--limit", type=int, help="only this many documents of each task")
    p.add_argument("--data_dir", type=Path, help="folder with gsm8k/test.jsonl and the like, instead of the hub")
    p.add_argument("--include_path", type=Path, help="folder with more task files")
    p.add_argument("--num_fewshot", type=int, help="examples before each question (lm-eval's tasks)")
    p.add_argument(
        "--apply_chat_template",
        action=argparse.BooleanOptionalAction,
        help="default: yes for this repository's tasks, no for lm-eval's",
    )
    p.add_argument("--protocol", choices=NAMES, default="default", help="stored in evaluation/protocols")
    p.add_argument("--seed", type=int, default=42)
    p.add_argument("--confirm_run_unsafe_code", action="store_true", help="run generated programs, in a sandbox")
    p.add_argument("--sandbox", choices=SANDBOXES, default="bubblewrap", help="what isolates generated programs")
    return p


def check_arguments(arguments: argparse.Namespace, tasks: list[str], protocol: Protocol) -> None:
    """What can be checked without lm-eval and the checkpoint."""
    for name in ("batch_size", "samples", "limit"):
        value = vars(arguments)[name]
        require(value is None or value >= 1, f"--{name} {value} must be at least 1")
    require(
        arguments.data_dir is None or arguments.data_dir.is_dir(), f"--data_dir {arguments.data_dir} is not a folder"
    )
    ours, known = [task for task in tasks if is_ours(task)], [task for task in tasks if protocol.of(task)]
    protocol.check_tasks(tasks)
    asked = dict.fromkeys([*ours, *known])
    programs = [task for task in asked if task.removeprefix(PREFIX).split("_")[0] in RUNS_CODE]
    require(
        not programs or arguments.confirm_run_unsafe_code,
        f"{', '.join(programs)} runs programs that a model wrote: read evaluation/README.md on the sandbox, then add "
        "--confirm_run_unsafe_code",
    )
    if programs:
        sandbox.check(Scoring(protocol.scoring, arguments.confirm_run_unsafe_code, arguments.sandbox))
    require(
        len(ours) in (0, len(tasks)) or arguments.apply_chat_template is not None,
        "--tasks mixes this repository's with lm-eval's: say --apply_chat_template or --no-apply_chat_template",
    )
    require(
        len({protocol.of(task).chat_template for task in known}) < 2 or arguments.apply_chat_template is not None,
        f"--tasks mixes tasks that protocol {protocol.name} asks with and without a chat template: run them apart",
    )
    require(
        arguments.samples == 1 or len(ours) == len(tasks),
        f"--samples {arguments.samples} is for this repository's tasks: lm-eval's say by themselves how often they ask",
    )


def main():
    arguments = parser().parse_args()
    tasks = list(dict.fromkeys(filter(None, arguments.tasks.split(","))))
    options, pairs = ModelOptions.parse(arguments.model_args), generation_pairs(arguments.gen_kwargs)
    protocol = Protocol.read(arguments.protocol)
    check_arguments(arguments, tasks, protocol)
    logging.getLogger("lm_eval").setLevel(logging.WARNING)
    from evaluation.dllm_eval.run import evaluate_all  # seconds to import: after what can be refused without it

    evaluate_all(arguments, tasks, options, pairs, protocol)


if __name__ == "__main__":
    exit_with_message(main)
