"""The lines of the table that need no GPU: checkpoint, tokenizer, data, disk and time."""

import math
import shutil
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from cd4lm.config import one_line
from cd4lm.data.examples import AnswerDataset, end_ids
from cd4lm.data.rows import read_jsonl
from cd4lm.data.splits import SOURCES, TINY, build_splits, read_source
from cd4lm.data.trajectories import collection_bytes, is_complete
from cd4lm.model.checkpoint import check_copies, check_shapes, weight_files
from cd4lm.model.loading import empty_network, load_config, load_tokenizer, shapes_of
from cd4lm.settings import ExperimentConfig
from cd4lm.training.processes import processes_asked, rows_per_step
from cd4lm.training.throughput import matmul_rate
from cd4lm.training.train import check_models
from preflighting.standin import here
from preflighting.step import Prediction

OK, NO, UNKNOWN = "ok", "no", "could not tell"
MOST_ROWS = 2000  # of the data that are made into tokens
GB = 1e9
SHARE = 0.4  # of a GPU's rate of matrix products that a training step is taken to reach


@dataclass(frozen=True)
class Row:
    """A line of the table. numbers: what a program reads of it."""

    check: str
    verdict: str
    what: str
    numbers: dict

    def as_json(self) -> dict:
        return {"check": self.check, "verdict": self.verdict, "what": self.what, **self.numbers}


def row(check: str, verdict: str, what: str, **numbers) -> Row:
    return Row(check, verdict, what, numbers)


def size(count: float) -> str:
    """Bytes for a reader."""
    return f"{count / GB:.1f} GB" if count >= GB / 10 else f"{count / 1e6:.1f} MB"


def guarded(check: str, work, *arguments) -> Row:
    """What a check says; an error of the input is its answer."""
    try:
        return work(check, *arguments)
    except (ValueError, OSError, ArithmeticError, RuntimeError) as error:  # the last from a GPU
        return row(check, NO, one_line(error))


def checkpoint(check: str, name: str) -> Row:
    """Whether every weight is there in its shape; reads headers, not weights."""
    folder = here(name)
    if folder is None or (not Path(name).is_dir() and not weight_files_there(folder)):
        return row(check, UNKNOWN, f"{name} is not on this disk; nothing was downloaded")
    config = load_config(folder)
    files, network = weight_files(folder), empty_network(config)
    if not files:
        return row(check, UNKNOWN, f"{name} holds PyTorch's old files, whose shapes are known once they are read")
    check_shapes(files, shapes_of(network), network.copies)
    check_copies(folder, network.copies)
    held, weights = sum(f.stat().st_size for f in files), sum(math.prod(s) for s in shapes_of(network).values())
    what = f"{weights / 1e6:,.1f} million weights in {len(files)} file(s), {size(held)}, all of config.json's shapes"
    return row(check, OK, what, weights=weights, bytes=held)


def weight_files_there(folder: Path) -> bool:
    return any(folder.glob("*.safetensors"))


def tokenizer_fits(check: str, config: ExperimentConfig) -> Row:
    """Whether tokenizer, model, format and adapters fit each other."""
    folders = {name: here(name) for name in (config.teacher, config.init_from) if name is not None}
    missing = [name for name, folder in folders.items() if folder is None]
    if missing:
        return row(check, UNKNOWN, f"{missing[0]} is not on this disk, nor its tokenizer")
    start = None if config.init_from is None else str(folders[config.init_from])
    local = replace(config, teacher=str(folders[config.teacher]), init_from=start)
    check_models(local, load_tokenizer(local.teacher))
    return row(check, OK, "mask, EOS, pad, chat template, positions and adapters fit the model")


def some_rows(config: ExperimentConfig) -> tuple[list[dict], int, str] | None:
    """The first rows of the train split, their number in all and where they are from; None if they are not here."""
    data, file = config.data, Path(config.data.dir) / "train.jsonl"
    if file.is_file():
        rows = read_jsonl(file)
        return rows[:MOST_ROWS], len(rows), str(file)
    if data.dataset == TINY:
        rows = build_splits(TINY, None, "generated", data.max_samples, 42, data.world)["train"]
        return rows[:MOST_ROWS], len(rows), f"{data.dir} as it will be made, with the data's answers"
    if data.source is not None:
        rows = list(islice(read_source(SOURCES[data.dataset], data.source, "", data.max_samples), None))
        share = SOURCES[data.dataset].train_share
        return rows[:MOST_ROWS], round(len(rows) * share), data.source
    return None


def data_fits(check: str, config: ExperimentConfig) -> Row:
    """Lengths of the rows in the experiment's format, those left out, and the share of EOS."""
    found = some_rows(config)
    if found is None:
        command = f"python scripts/prepare_data.py --dataset {config.data.dataset} --output_dir {config.data.dir}"
        return row(check, UNKNOWN, f"{config.data.dir} is not prepared and nothing was downloaded: {command}")
    if here(config.teacher) is None:
        return row(check, UNKNOWN, f"the tokenizer of {config.teacher} is not on this disk", examples=found[1])
    rows, examples, origin = found
    tokenizer = load_tokenizer(str(here(config.teacher)))
    dataset = AnswerDataset(rows, tokenizer, config.format, origin)
    prompts, answers = (np.array([len(e[part]) for e in dataset.examples]) for part in ("prompt", "answer"))
    ends = end_ids(tokenizer)
    eos = sum(sum(token in ends for token in e["answer"]) for e in dataset.examples) / answers.sum()
    longer = int((answers > config.format.answer_length).sum())
    what = (
        f"{examples} rows, {'the first ' if examples > len(rows) else ''}{len(rows)} read: prompts {middle(prompts)}, "
        f"answers {middle(answers)} tokens; {dataset.skipped} longer than max_length={config.format.max_length} left out; "
        f"{longer} answers above answer_length={config.format.answer_length}; EOS is {eos:.0%} of the answers' tokens ({origin})"
    )
    numbers = {"left_out": dataset.skipped, "longest": int((prompts + answers).max()), "eos_share": float(eos)}
    return row(check, OK, what, examples=examples, **numbers)


def middle(lengths: np.ndarray) -> str:
    return f"{int(np.median(lengths))} (median) to {lengths.max()}"


def elsewhere(config: ExperimentConfig) -> bool:
    """Whether the run is planned on a machine without the GPUs that it wants."""
    return not torch.cuda.is_available() and (config.train.bf16 or config.train.launch is not None)


def room(config: ExperimentConfig, needed: int, free: int) -> str:
    """Whether there is room on the machine that the run is for."""
    return OK if needed <= free else UNKNOWN if elsewhere(config) else NO


def free_bytes(folder: str) -> int:
    """Free space where a folder is or will be."""
    path = Path(folder).absolute()
    while not path.is_dir():
        path = path.parent
    return shutil.disk_usage(path).free


def disk(check: str, config: ExperimentConfig, written: int) -> Row:
    """Whether checkpoints and student find room; nothing is written."""
    free = free_bytes(config.output_dir)
    what = f"checkpoints and student take up to {size(written)}, {size(free)} are free for {config.output_dir} here"
    return row(check, room(config, written, free), what, needed=written, free=free)


def paths(check: str, config: ExperimentConfig, examples: int | None) -> Row:
    """Whether the teacher's paths are there, or what recording them takes on disk."""
    settings = config.trajectories
    if is_complete(Path(settings.dir)):
        return row(check, OK, f"{settings.dir} is complete")
    questions = settings.rows if settings.rows is not None else examples
    if questions is None:
        return row(
            check, UNKNOWN, f"{settings.dir} is to be recorded; how many questions the data has is not known here"
        )
    folder = here(config.teacher)
    width = 0 if not settings.hidden or folder is None else load_config(folder).d_model
    if settings.hidden and folder is None:
        return row(check, UNKNOWN, f"{settings.dir} is to be recorded; {config.teacher} is not here to say its width")
    count = questions * len(settings.temperatures)
    needed = collection_bytes(count, config.format.answer_length, width, getattr(torch, settings.dtype))
    free = free_bytes(settings.dir)
    what = f"{count} paths to be recorded, {size(needed)}; {size(free)} are free for {settings.dir} here"
    return row(check, room(config, needed, free), what, needed=needed, free=free)


def time(check: str, config: ExperimentConfig, found: Prediction, examples: int | None, tflops: float | None) -> Row:
    """What a step computes and how long the run takes, evaluation and data left out."""
    per_step = found.flops * found.micro_batches
    what = f"{per_step / 1e12:.3g} TFLOP per step on each of {processes_asked(config.train)} process(es)"
    numbers = {"flops_per_step": per_step}
    known = config.train.max_steps or examples
    steps = config.train.max_steps or (known and math.ceil(config.train.epochs * known / rows_per_step(config.train)))
    numbers["steps"] = steps
    rate, source = effective_rate(config, tflops)
    if rate is None:
        return row(check, UNKNOWN, f"{what}; {source}", **numbers)
    seconds = per_step / rate
    what += f", {seconds:.3g} s at {rate / 1e12:.3g} TFLOP/s ({source})"
    if steps is None:
        return row(check, UNKNOWN, f"{what}; the number of steps depends on the data, which is not here", **numbers)
    run = seconds * steps
    return row(check, OK, f"{what}; {steps} steps: {span(run)} without evaluation", seconds=run, **numbers)


def span(seconds: float) -> str:
    return (
        f"{seconds / 3600:.1f} h"
        if seconds > 5400
        else f"{seconds / 60:.0f} min"
        if seconds > 90
        else f"{seconds:.0f} s"
    )


def effective_rate(config: ExperimentConfig, tflops: float | None) -> tuple[float | None, str]:
    """Operations per second that a step gets out of a device, and where the number is from."""
    if tflops is not None:
        return tflops * 1e12, "--tflops"
    cuda = torch.cuda.is_available()
    if elsewhere(config):
        return None, "no GPU is here to be measured: say --tflops, what one GPU gets out of a training step"
    device, dtype = torch.device("cuda" if cuda else "cpu"), torch.bfloat16 if config.train.bf16 else torch.float32
    return SHARE * matmul_rate(device, dtype), f"{SHARE:.0%} of this {'GPU' if cuda else 'CPU'}'s matrix products"
