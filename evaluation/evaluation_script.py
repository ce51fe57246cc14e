"""Evaluate a checkpoint on benchmark tasks with lm-eval, decoding through this repository's engine.

    python evaluation/evaluation_script.py -m dllm_eval --model LLaDA --tasks dllm_gsm8k --batch_size 8 \\
        --model_args "pretrained=GSAI-ML/LLaDA-8B-Instruct" --output_path outputs/gsm8k --log_samples \\
        --gen_kwargs "use_dynamic=true,gen_length=256,block_length=32,confidence_threshold=0.95"

Give the same command again to resume an interrupted run. Several GPUs: torchrun --standalone --nproc_per_node 8 before it.
This repository's tasks are dllm_gsm8k dllm_math500 dllm_humaneval dllm_mbpp dllm_humaneval_plus dllm_mbpp_plus, the last
four also as ..._pass5; lm-eval's own go by their names.
"""

import argparse
import json
import logging
import sys
from dataclasses import asdict, fields
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from evaluation.dllm_eval.options import (
    GenerationOptions,
    ModelOptions,
    generation_pairs,
    make_decoder,
    model_options,
    task_options,
)
from evaluation.dllm_eval.scoring import is_ours
from evaluation.metrics.scoring import RUNS_CODE
from evaluation.metrics.verdict import PROTOCOLS
from src.config import exit_with_message, require


def names(cls: type) -> str:
    return ", ".join(field.name for field in fields(cls))


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("-m", dest="adapter", choices=["dllm_eval"], default="dllm_eval", help="the adapter package")
    p.add_argument("--model", choices=["LLaDA"], default="LLaDA", help="the model class of the adapter")
    p.add_argument("--tasks", required=True, help="names, separated by commas")
    p.add_argument("--model_args", required=True, help=f"key=value,...: {names(ModelOptions)}")
    p.add_argument("--gen_kwargs", default="", help=f"key=value,...: {names(GenerationOptions)}")
    p.add_argument("--batch_size", type=int, default=1, help="rows decoded together; changes no answer in float32")
    p.add_argument("--output_path", type=Path, required=True, help="folder for samples, results and the resume log")
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
    p.add_argument("--protocol", choices=PROTOCOLS, default="default", help="scoring: ours, or as published")
    p.add_argument("--seed", type=int, default=42)
    p.add_argument("--confirm_run_unsafe_code", action="store_true", help="run generated programs, in a sandbox")
    return p


def check_arguments(arguments: argparse.Namespace, tasks: list[str]) -> None:
    """What can be checked without lm-eval and the checkpoint."""
    require(arguments.batch_size >= 1, f"--batch_size {arguments.batch_size} must be at least 1")
    require(arguments.limit is None or arguments.limit >= 1, f"--limit {arguments.limit} must be at least 1")
    programs = [task for task in tasks if is_ours(task) and task.split("_")[1] in RUNS_CODE]
    require(
        not programs or arguments.confirm_run_unsafe_code,
        f"{', '.join(programs)} runs programs that a model wrote: read evaluation/README.md on the sandbox, then add "
        "--confirm_run_unsafe_code",
    )
    kinds = {is_ours(task) for task in tasks}
    require(
        len(kinds) == 1 or arguments.apply_chat_template is not None,
        "--tasks mixes this repository's with lm-eval's: say --apply_chat_template or --no-apply_chat_template",
    )
    require(
        arguments.data_dir is None or arguments.data_dir.is_dir(), f"--data_dir {arguments.data_dir} is not a folder"
    )


def prepare_tasks(arguments: argparse.Namespace, loaded: dict, pairs: dict, scorer) -> None:
    """Give each task the command line's settings, as lm-eval's own command does."""
    for name, task in loaded["tasks"].items():
        if task.get_config("output_type") == "generate_until" and pairs:
            sampled = {"do_sample": pairs["temperature"] > 0} if "temperature" in pairs else {}
            task.set_config("generation_kwargs", pairs | sampled, update=True)
        if is_ours(name):
            task.set_config("process_results", scorer.process_results(name))
        elif arguments.num_fewshot is not None:
            task.set_config("num_fewshot", arguments.num_fewshot)
        if task.get_config("num_fewshot") is None:
            task.set_config("num_fewshot", 0)
        task.set_fewshot_seed(seed=arguments.seed)


def run_settings(arguments: argparse.Namespace, options: ModelOptions, pairs: dict, weights: str) -> dict:
    """Everything that an answer depends on; --limit and where the data lies may change between runs."""
    taken = ("tasks", "batch_size", "num_fewshot", "apply_chat_template", "protocol", "seed")
    kept = {name: vars(arguments)[name] for name in taken}
    return kept | {"model_args": asdict(options), "gen_kwargs": pairs, "weights": weights}


def main():
    arguments = parser().parse_args()
    tasks = list(dict.fromkeys(filter(None, arguments.tasks.split(","))))
    options, pairs = model_options(arguments.model_args), generation_pairs(arguments.gen_kwargs)
    check_arguments(arguments, tasks)
    logging.getLogger("lm_eval").setLevel(logging.WARNING)
    evaluate_all(arguments, tasks, options, pairs)


def evaluate_all(arguments: argparse.Namespace, tasks: list[str], options: ModelOptions, pairs: dict) -> None:
    from lm_eval.evaluator import evaluate  # seconds to import: after everything that can be refused without it

    from evaluation.dllm_eval import manifest, results, task_list
    from evaluation.dllm_eval.answers import AnswerLog
    from evaluation.dllm_eval.model import LLaDA, join_processes
    from evaluation.dllm_eval.recorder import Recorder
    from evaluation.dllm_eval.scoring import Scorer
    from src.data.examples import end_ids
    from src.decoding.generation_settings import GenerationSettings
    from src.model import LLaDAConfig
    from src.model.checkpoint import check_folder
    from src.model.loading import load_tokenizer

    check_folder(options.pretrained)
    eos_ids, mask_id = (
        end_ids(load_tokenizer(options.pretrained)),
        LLaDAConfig.from_pretrained(options.pretrained).mask_token_id,
    )
    state, stored = join_processes(), GenerationSettings.load(options.pretrained)
    scorer = Scorer(arguments.protocol, arguments.confirm_run_unsafe_code, state.num_processes)
    loaded = task_list.load(tasks, arguments.data_dir, arguments.include_path)
    prepare_tasks(arguments, loaded, pairs, scorer)
    decoders = {
        name: make_decoder(task_options(task.config.generation_kwargs)[0], stored, mask_id, eos_ids, arguments.seed)
        for name, task in loaded["tasks"].items()
        if task.get_config("output_type") == "generate_until"
    }
    require(
        arguments.limit is None or arguments.limit >= state.num_processes,
        f"--limit {arguments.limit} leaves some of the {state.num_processes} processes without a document: raise it",
    )
    settings = json.loads(
        json.dumps(run_settings(arguments, options, pairs, manifest.weights_hash(options.pretrained)))
    )
    manifest.check_same_run(arguments.output_path, settings, write=state.is_main_process)
    log = AnswerLog(arguments.output_path, state.process_index)
    if log.resumed and state.is_main_process:
        print(f"{log.resumed} answers of an earlier run are kept", file=sys.stderr)
    recorder = Recorder(scorer, show=state.is_main_process)
    model = LLaDA(**asdict(options), batch_size=arguments.batch_size, seed=arguments.seed, log=log, recorder=recorder)
    chat = all(map(is_ours, tasks)) if arguments.apply_chat_template is None else arguments.apply_chat_template
    found = evaluate(
        model,
        loaded,
        limit=arguments.limit,
        bootstrap_iters=1000,
        log_samples=arguments.log_samples,
        apply_chat_template=chat,
        fewshot_as_multiturn=chat,
        confirm_run_unsafe_code=arguments.confirm_run_unsafe_code,
    )
    samples = results.gathered(recorder, model)
    if samples is None:
        return
    about = manifest.manifest(settings, model, manifest.prompt_hashes(samples), decoders)
    if arguments.log_samples:
        for task, rows in found["samples"].items():
            lines = [json.dumps(row, ensure_ascii=False, default=str) for row in rows]
            results.write_whole(arguments.output_path / f"lm_eval_samples_{task}.jsonl", "\n".join(lines) + "\n")
    print(results.write_results(arguments.output_path, samples, found["results"], about))
    print(f"wrote {arguments.output_path}/results.json")


if __name__ == "__main__":
    exit_with_message(main)
