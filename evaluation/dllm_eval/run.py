"""One evaluation from settings to results: tasks, resume log, model, lm-eval, files."""

import argparse
import json
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

from lm_eval.evaluator import evaluate

from cd4lm.config import flat, require
from cd4lm.data.examples import chat_text
from cd4lm.decoding import Decoder
from cd4lm.io import fingerprint, provenance, weights_fingerprint, write_json, write_text
from cd4lm.model.checkpoint import check_folder
from cd4lm.model.loading import best_device, tokenizer_for_inference
from evaluation.compare import summarise
from evaluation.dllm_eval import stock, task_list
from evaluation.dllm_eval.answers import AnswerLog
from evaluation.dllm_eval.model import DTYPES, LLaDA, join_processes
from evaluation.dllm_eval.options import PREFIX, ModelOptions, is_ours, task_options
from evaluation.dllm_eval.scoring import AGGREGATIONS, Judge, Progress
from evaluation.metrics.verdict import RIGHT, Scoring
from evaluation.protocol import CANVAS, Benchmark, Protocol
from evaluation.report import run_table, table
from evaluation.run import Run


def evaluate_all(
    arguments: argparse.Namespace, tasks: list[str], options: ModelOptions, pairs: dict, protocol: Protocol
) -> None:
    """Run the tasks and write the results; every refusal comes before the weights are read."""
    check_folder(options.pretrained)
    state = join_processes()
    workers = max(1, (os.cpu_count() or 2) // (2 * state.num_processes))
    judge = Judge(Scoring(protocol.scoring, arguments.confirm_run_unsafe_code, arguments.sandbox, workers))
    loaded, members = task_list.load(
        tasks, arguments.data_dir, arguments.include_path, arguments.samples, judge, protocol
    )
    benchmarks = {member: protocol.of(task) for task, names in members.items() for member in names}
    prepare_tasks(arguments, loaded, pairs, benchmarks)
    chat = with_chat_template(arguments, tasks, protocol)
    decoders = decoders_of(loaded, options.pretrained, arguments.seed, chat)
    require(
        arguments.limit is None or arguments.limit >= state.num_processes,
        f"--limit {arguments.limit} leaves some of the {state.num_processes} processes without a document: raise it",
    )
    settings = run_settings(arguments, options, pairs)
    if members:
        settings["conditions"] = {task: protocol.of(task).conditions() for task in members}
    check_same_run(arguments.output_path, settings, write=state.is_main_process)
    log = AnswerLog(arguments.output_path, state.process_index)
    if log.resumed and state.is_main_process:
        print(f"{log.resumed} answers of an earlier run are kept", file=sys.stderr)
    progress = Progress(judge, show=state.is_main_process)
    model = LLaDA(**asdict(options), batch_size=arguments.batch_size, seed=arguments.seed, log=log, progress=progress)
    found = run_lm_eval(arguments, model, loaded, chat)
    if found is None:
        return
    about = about_run(arguments, settings, model)
    runs = []
    for run in [*our_runs(found, decoders), *stock_runs(found, members, protocol, judge, decoders)]:
        conditions = conditions_of(arguments, protocol, run, chat)
        runs.append(Run(about | run.about | {"protocol": conditions}, run.documents))
    write_results(arguments, found, about, runs)


def prepare_tasks(arguments: argparse.Namespace, loaded: dict, pairs: dict, benchmarks: dict[str, Benchmark]) -> None:
    """Give each task the command line's settings, as lm-eval's own command does, and before them the protocol's.

    benchmarks: by task, those of lm-eval's own that the protocol names; the canvas of ours is the checkpoint's.
    """
    for name, task in loaded["tasks"].items():
        stored, shots = {}, arguments.num_fewshot
        if name in benchmarks:
            stored = {option: vars(benchmarks[name])[option] for option in CANVAS}
            stored |= {} if benchmarks[name].until is None else {"until": list(benchmarks[name].until)}
            shots = benchmarks[name].num_fewshot if shots is None else shots
        if task.get_config("output_type") == "generate_until" and stored | pairs:
            sampled = {"do_sample": pairs["temperature"] > 0} if "temperature" in pairs else {}
            task.set_config("generation_kwargs", stored | pairs | sampled, update=True)
        if shots is not None and not is_ours(name):
            task.set_config("num_fewshot", shots)
        if task.get_config("num_fewshot") is None:
            task.set_config("num_fewshot", 0)
        task.set_fewshot_seed(seed=arguments.seed)


def with_chat_template(arguments: argparse.Namespace, tasks: Iterable[str], protocol: Protocol) -> bool:
    """Whether prompts are in the chat template: as asked, as the protocol says, else for this repository's tasks."""
    if arguments.apply_chat_template is not None:
        return arguments.apply_chat_template
    known = {task: protocol.of(task) for task in tasks}
    return all(is_ours(task) if own is None else own.chat_template for task, own in known.items())


def decoders_of(loaded: dict, pretrained: str, seed: int, chat: bool) -> dict[str, Decoder]:
    """How each generating task will be decoded. Raises ValueError for settings that cannot be, before any weights."""
    tokenizer = tokenizer_for_inference(pretrained)
    require(
        not chat or tokenizer.chat_template is not None,
        f"{pretrained} has no chat template: put the chat_template.jinja of its base model into that folder, or add "
        "--no-apply_chat_template",
    )
    if chat:
        chat_text(tokenizer, [{"role": "system", "content": "form"}, {"role": "user", "content": "question"}])
    return {
        name: task_options(task.config.generation_kwargs, seed)[0].for_checkpoint(pretrained, tokenizer)
        for name, task in loaded["tasks"].items()
        if task.get_config("output_type") == "generate_until"
    }


def run_settings(arguments: argparse.Namespace, options: ModelOptions, pairs: dict) -> dict:
    """Everything that an answer depends on, as JSON; --limit and where the data lies may change between runs."""
    taken = ("tasks", "batch_size", "num_fewshot", "apply_chat_template", "protocol", "samples", "seed")
    dtype = DTYPES[options.dtype] or best_device()[1]
    model = {"weights": weights_fingerprint(options.pretrained), "dtype": str(dtype).removeprefix("torch.")}
    kept = {name: vars(arguments)[name] for name in taken}
    return json.loads(json.dumps(kept | model | {"model_args": asdict(options), "gen_kwargs": pairs}))


def check_same_run(folder: Path, settings: dict, write: bool) -> None:
    """Remember the settings of a run in its folder; on a later start raise ValueError naming the first that differs."""
    file = folder / "settings.json"
    if not file.is_file():
        if write:
            write_json(file, settings)
        return
    stored, given = flat(json.loads(file.read_text())), flat(settings)
    for name in sorted({*stored, *given}):
        before, now = (values.get(name, None) for values in (stored, given))
        require(
            before == now,
            f"{folder} was started with {name}={before}, not {now}: choose another --output_path, or give the same "
            "settings to resume",
        )


def run_lm_eval(arguments: argparse.Namespace, model: LLaDA, loaded: dict, chat: bool) -> dict | None:
    """lm-eval's results, None except in process 0."""
    return evaluate(
        model,
        loaded,
        limit=arguments.limit,
        bootstrap_iters=1000,
        log_samples=True,
        apply_chat_template=chat,
        fewshot_as_multiturn=chat,
        confirm_run_unsafe_code=arguments.confirm_run_unsafe_code,
    )


def about_run(arguments: argparse.Namespace, settings: dict, model: LLaDA) -> dict:
    """What all tasks of a run have in common, for run.json and results.json."""
    folder = settings["model_args"]["pretrained"]
    checkpoint = {"name": folder, "folder": folder} | {name: settings[name] for name in ("weights", "dtype")}
    return {
        "name": arguments.name or arguments.output_path.resolve().name,
        "model": checkpoint,
        "seed": arguments.seed,
        "settings": settings,
        "processes": model.world_size,
        "provenance": provenance(),
    }


def document(row: dict) -> dict:
    """A line of documents.jsonl from lm-eval's record of a document."""
    response, outcomes = row["filtered_resps"][0], row["outcomes"]
    line = {"id": row["doc_id"], "doc": row["doc"], "response": response}
    line |= {"outcome": RIGHT if RIGHT in outcomes else outcomes[0]} | {name: row[name] for name in AGGREGATIONS}
    return line if isinstance(response, list) else {k: v for k, v in line.items() if k != "outcomes"}


def run_of(task: str, rows: list[dict], decoder: Decoder) -> Run:
    """The record of a task, without what all tasks of a command have in common."""
    own = {"task": task, "decoder": decoder.about(), "prompts": fingerprint([row["prompt_hash"] for row in rows])}
    return Run(own, [document(row) for row in rows])


def our_runs(found: dict, decoders: dict[str, Decoder]) -> Iterator[Run]:
    for task in filter(is_ours, found["samples"]):
        rows = sorted(found["samples"][task], key=lambda row: row["doc_id"])
        yield run_of(task.removeprefix(PREFIX), rows, decoders[task])


def stock_runs(
    found: dict, members: dict[str, list[str]], protocol: Protocol, judge: Judge, decoders: dict[str, Decoder]
) -> Iterator[Run]:
    for task, names in members.items():
        rows = stock.documents(found["samples"], names, protocol.of(task), judge)
        yield run_of(task, rows, decoders[names[0]])


def conditions_of(arguments: argparse.Namespace, protocol: Protocol, run: Run, chat: bool) -> dict:
    """The conditions under which a run was made: its protocol's, with what the command line said otherwise."""
    benchmark = protocol.find(run.task)
    made = {"chat_template": chat, "samples": arguments.samples}
    made |= {name: run.about["decoder"][name] for name in CANVAS}
    if arguments.num_fewshot is not None and not is_ours(benchmark.task):
        made["num_fewshot"] = arguments.num_fewshot
    return {"name": protocol.name} | benchmark.conditions(**made)


def write_results(arguments: argparse.Namespace, found: dict, about: dict, runs: list[Run]) -> None:
    """All files of a finished command, and its table on the screen."""
    folder = arguments.output_path
    for run in runs:
        run.write(folder if len(runs) == 1 else folder / run.task)
    summaries = {run.task: summarise(run) for run in runs}
    if arguments.log_samples:
        for task, rows in found["samples"].items():
            lines = [json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows]
            write_text(folder / f"lm_eval_samples_{task}.jsonl", "".join(lines))
    results = {"tasks": summaries, "lm_eval": found["results"], "about": about}
    write_text(folder / "results.json", json.dumps(results, indent=2, ensure_ascii=False, default=str) + "\n")
    theirs = {task: metrics for task, metrics in found["results"].items() if not is_ours(task)}
    shown = {f"{task} ({numbers['documents']})": numbers for task, numbers in summaries.items()}
    text = "\n\n".join([run_table({"runs": shown})] * bool(shown) + [stock_table(theirs)] * bool(theirs))
    write_text(folder / "results.md", text + "\n")
    print(f"{text}\nwrote {folder}/results.json")


def stock_table(results: dict) -> str:
    """lm-eval's own metrics of its tasks, one line each."""
    rows = []
    for task, metrics in results.items():
        for name, value in metrics.items():
            metric, _, kind = name.partition(",")
            if isinstance(value, (int, float)) and kind and not metric.endswith("_stderr"):
                error = metrics.get(f"{metric}_stderr,{kind}", "none")
                error = f"{error:.4f}" if isinstance(error, float) else error
                rows.append([task, f"{metric} ({kind})", f"{value:.4f}", error])
    return table(["task", "metric", "value", "standard error"], rows)
