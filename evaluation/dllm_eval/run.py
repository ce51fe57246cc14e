"""One evaluation from settings to results: tasks, resume log, model, lm-eval, files."""

import argparse
import json
import sys
from dataclasses import asdict

from lm_eval.evaluator import evaluate

from cd4lm.config import require
from cd4lm.data.examples import end_ids
from cd4lm.decoding.generation_settings import GenerationSettings
from cd4lm.model.checkpoint import check_folder
from cd4lm.model.loading import best_device, load_config, load_tokenizer
from evaluation.dllm_eval import manifest, results, task_list
from evaluation.dllm_eval.answers import AnswerLog
from evaluation.dllm_eval.model import DTYPES, LLaDA
from evaluation.dllm_eval.options import Decoder, ModelOptions, make_decoder, task_options
from evaluation.dllm_eval.processes import join_processes
from evaluation.dllm_eval.recorder import Recorder
from evaluation.dllm_eval.scoring import Scorer, is_ours


def prepare_tasks(arguments: argparse.Namespace, loaded: dict, pairs: dict, scorer: Scorer) -> None:
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


def decoders_of(loaded: dict, pretrained: str, seed: int) -> dict[str, Decoder]:
    """How each generating task will be decoded. Raises ValueError for settings that cannot be, before any weights."""
    model_config = load_config(pretrained)
    stored, eos_ids = GenerationSettings.load(pretrained), end_ids(load_tokenizer(pretrained))
    return {
        name: make_decoder(task_options(task.config.generation_kwargs)[0], stored, model_config, eos_ids, seed)
        for name, task in loaded["tasks"].items()
        if task.get_config("output_type") == "generate_until"
    }


def run_settings(arguments: argparse.Namespace, options: ModelOptions, pairs: dict) -> dict:
    """Everything that an answer depends on, as JSON; --limit and where the data lies may change between runs."""
    taken = ("tasks", "batch_size", "num_fewshot", "apply_chat_template", "protocol", "seed")
    dtype = DTYPES[options.dtype] or best_device()[1]
    model = {"weights": manifest.weights_hash(options.pretrained), "dtype": str(dtype)}
    kept = {name: vars(arguments)[name] for name in taken}
    return json.loads(json.dumps(kept | model | {"model_args": asdict(options), "gen_kwargs": pairs}))


def evaluate_all(arguments: argparse.Namespace, tasks: list[str], options: ModelOptions, pairs: dict) -> None:
    """Run the tasks and write the results; every refusal comes before the weights are read."""
    check_folder(options.pretrained)
    state = join_processes()
    scorer = Scorer(arguments.protocol, arguments.confirm_run_unsafe_code, state.num_processes)
    loaded = task_list.load(tasks, arguments.data_dir, arguments.include_path)
    prepare_tasks(arguments, loaded, pairs, scorer)
    decoders = decoders_of(loaded, options.pretrained, arguments.seed)
    require(
        arguments.limit is None or arguments.limit >= state.num_processes,
        f"--limit {arguments.limit} leaves some of the {state.num_processes} processes without a document: raise it",
    )
    settings = run_settings(arguments, options, pairs)
    manifest.check_same_run(arguments.output_path, settings, write=state.is_main_process)
    log, recorder = AnswerLog(arguments.output_path, state.process_index), Recorder(scorer, show=state.is_main_process)
    if log.resumed and state.is_main_process:
        print(f"{log.resumed} answers of an earlier run are kept", file=sys.stderr)
    model = LLaDA(**asdict(options), batch_size=arguments.batch_size, seed=arguments.seed, log=log, recorder=recorder)
    found = run_lm_eval(arguments, model, loaded)
    samples = results.gathered(recorder, model)
    if samples is not None:
        about = manifest.manifest(settings, model, manifest.prompt_hashes(samples), decoders)
        write(arguments, samples, found, about)


def run_lm_eval(arguments: argparse.Namespace, model: LLaDA, loaded: dict) -> dict | None:
    """lm-eval's results, None except in process 0."""
    chat = (
        all(map(is_ours, loaded["tasks"])) if arguments.apply_chat_template is None else arguments.apply_chat_template
    )
    return evaluate(
        model,
        loaded,
        limit=arguments.limit,
        bootstrap_iters=1000,
        log_samples=arguments.log_samples,
        apply_chat_template=chat,
        fewshot_as_multiturn=chat,
        confirm_run_unsafe_code=arguments.confirm_run_unsafe_code,
    )


def write(arguments: argparse.Namespace, samples: dict[str, list[dict]], found: dict, about: dict) -> None:
    """All files of a finished run, and its table on the screen."""
    folder = arguments.output_path
    if arguments.log_samples:
        for task, rows in found["samples"].items():
            lines = [json.dumps(row, ensure_ascii=False, default=str) for row in rows]
            results.write_whole(folder / f"lm_eval_samples_{task}.jsonl", "\n".join(lines) + "\n")
    print(results.write_results(folder, samples, found["results"], about))
    print(f"wrote {folder}/results.json")
