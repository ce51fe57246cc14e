"""Record the teacher's decoding paths for CDLM, d3LLM and TAD: one token per step, and for CDLM the hidden state that
each token was read from.

    python -m cd4lm.training.collect_trajectories configs/tiny_cdlm.yaml [key=value ...]
    torchrun --nproc_per_node 8 -m cd4lm.training.collect_trajectories configs/llada_8b_cdlm.yaml    # shards shared out

Writes <trajectories.dir>/manifest.json and shard files; run the same command again to go on after an interruption.
"""

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import PreTrainedTokenizerBase

from cd4lm.config import command_line, exit_with_message, load, require
from cd4lm.data.examples import encode_prompt, end_ids
from cd4lm.data.rows import check_texts, digest, read_jsonl
from cd4lm.data.trajectories import (
    MANIFEST,
    check_manifest,
    collection_bytes,
    read_manifest,
    shard_file,
    shards_of,
    write_shard,
)
from cd4lm.decoding import DecodeConfig, DecodeResult, DecodingOptions, generate
from cd4lm.io import write_json
from cd4lm.model import DiffusionLM
from cd4lm.model.loading import load_config, load_for_inference, load_tokenizer
from cd4lm.progress import Progress
from cd4lm.settings import ExperimentConfig
from cd4lm.training.cad_eval import score_of
from cd4lm.training.resume import GIGABYTE, check_output

# A token's probability from its stored hidden state may differ by this much from the one it was committed with.
REBUILD_TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2}
CHECKED = 8  # paths of every shard whose probabilities are rebuilt


class HiddenRecorder:
    """Keeps, for every token of an answer, the head's input in the step that committed it: hidden (n, G, d)."""

    def __init__(self, model: DiffusionLM, paths: int, config: DecodeConfig, dtype: torch.dtype):
        self.block_length = config.block_length
        self.hidden = torch.zeros(paths, config.gen_length, model.config.d_model, dtype=dtype)
        self._hook = model.get_output_embeddings().register_forward_pre_hook(self._before_head)
        self._rows: torch.Tensor | None = None

    def _before_head(self, head, inputs) -> None:
        self._rows = inputs[0]  # (n, b, d), the current block of every row

    def after_step(self, canvas) -> None:
        """Store what the step's one committed token of each row was read from."""
        steps = canvas.commit_step[:, -canvas.gen_length :]  # (n, G)
        place = (steps == canvas.nfe[:, None] - 1).int().argmax(dim=1)  # (n,) in the answer
        start = place - (place + canvas.offset) % self.block_length
        start = start.clamp(max=canvas.gen_length - self.block_length)  # a short last block is seen with what is before
        rows = self._rows[torch.arange(len(place), device=place.device), place - start]  # (n, d)
        self.hidden[canvas.index.cpu(), place.cpu()] = rows.to("cpu", self.hidden.dtype)

    def close(self) -> None:
        self._hook.remove()


def settings_provenance(config: ExperimentConfig, tokenizer: PreTrainedTokenizerBase) -> dict:
    """What a collection depends on and training compares, but for the teacher: tokenizer and data by digest, canvas and
    blocks."""
    words = json.dumps([sorted(tokenizer.get_vocab().items()), tokenizer.chat_template])
    return {
        "tokenizer": hashlib.sha256(words.encode()).hexdigest(),
        "data": digest(train_rows(config)),
        "prompt_template": config.format.prompt_template,
        "gen_length": config.format.answer_length,
        "block_length": config.trajectories.block_length,
        "grid": config.trajectories.grid,
    }


def weights_digest(model: DiffusionLM) -> str:
    """SHA-256 over the head and the last block in bfloat16: however a model was trained on, one of them differs."""
    found = hashlib.sha256()
    for tensor in (model.get_output_embeddings().weight, *model.blocks[-1].parameters()):
        found.update(tensor.detach().to("cpu", torch.bfloat16).contiguous().view(torch.int16).numpy().tobytes())
    return found.hexdigest()


def train_rows(config: ExperimentConfig, columns: tuple[str, ...] = ("question",)) -> list[dict]:
    """Rows of the train split, with a text in each of the columns."""
    file = Path(config.data.dir) / "train.jsonl"
    require(file.is_file(), f"{file} does not exist: run scripts/prepare_data.py --output_dir {config.data.dir} first")
    rows = read_jsonl(file)
    check_texts(rows, columns, file)
    return rows


def usable_prompts(config: ExperimentConfig, tokenizer) -> tuple[list[dict], dict[int, torch.Tensor]]:
    """All rows of the train split, and the prompts of those to answer that leave room for an answer, by row."""
    rows = train_rows(config)
    encoded = (encode_prompt(tokenizer, row["question"], config.format.prompt_template) for row in rows)
    room = config.format.max_length - config.format.answer_length
    chosen = {
        i: torch.tensor(ids) for i, ids in zip(range(config.trajectories.rows or len(rows)), encoded, strict=False)
    }
    prompts = {i: ids for i, ids in chosen.items() if len(ids) <= room}
    if len(prompts) < len(chosen):
        print(f"{len(chosen) - len(prompts)} questions longer than {room} tokens left out")
    require(bool(prompts), f"no question leaves room for {config.format.answer_length} tokens in max_length={room}")
    return rows, prompts


def decode_paths(config, model, tokenizer, prompts, mine: list[int], temperature: float, progress):
    """The result of decoding the paths `mine` at one temperature, and their hidden states (n, G, d) if asked for."""
    settings = config.trajectories
    options = DecodingOptions(
        policy="fixed",  # one token per step
        gen_length=config.format.answer_length,
        block_length=settings.block_length,
        temperature=temperature,
        stop_at_eos=False,  # a path has a step for every position
        cache="none",
        seed=settings.seed,
    )
    decoder = options.decoder(model.config, end_ids(tokenizer))
    decoder = replace(decoder, config=replace(decoder.config, block_grid=settings.grid))
    recorder, parts = None, []
    if settings.hidden:
        recorder = HiddenRecorder(model, len(mine), decoder.config, getattr(torch, settings.dtype))
    on_step = None if recorder is None else recorder.after_step
    try:
        how = {"batch_size": settings.batch_size, "row_ids": mine, "on_step": on_step}
        for g in generate(model, tokenizer, prompts, decoder, **how):
            parts.append(g.result)
            progress.add()
    finally:
        if recorder is not None:
            recorder.close()
    return DecodeResult.join(parts), None if recorder is None else recorder.hidden


def right_answers(config, tokenizer, rows: list[dict], result: DecodeResult) -> torch.Tensor:
    """Which results to keep, bool (n,): all, or those that the metric calls right."""
    if config.trajectories.metric is None:
        return torch.ones(len(rows), dtype=torch.bool)
    is_right = score_of(config.trajectories.metric, "trajectories.metric")
    texts = [tokenizer.decode(t[:n]) for t, n in zip(result.tokens, result.lengths.tolist(), strict=True)]
    return torch.tensor([is_right(row, text) for row, text in zip(rows, texts, strict=True)])


def collect_shard(
    config, model, tokenizer, rows, prompts, paths: range, progress
) -> tuple[dict[str, torch.Tensor], float]:
    """One shard's tensors, and by how much rebuilt probabilities differ from those of the decoding.

    Path p answers question p // K at temperature p % K of K.
    """
    temperatures, numbers = config.trajectories.temperatures, list(prompts)
    width = max(map(len, prompts.values()))
    parts, worst = [], 0.0
    for kind, temperature in enumerate(temperatures):
        mine = [path for path in paths if path % len(temperatures) == kind]
        if not mine:
            continue
        asked = [numbers[path // len(temperatures)] for path in mine]
        own = [prompts[i] for i in asked]
        result, hidden = decode_paths(config, model, tokenizer, own, mine, temperature, progress)
        if hidden is not None:
            worst = max(worst, rebuilding_error(model, result, hidden))
        kept = right_answers(config, tokenizer, [rows[i] for i in asked], result)
        tensors = {
            "row": torch.tensor(asked),
            "temperature": torch.full((len(mine),), temperature),
            "prompt": torch.stack([F.pad(prompt, (0, width - len(prompt))) for prompt in own]).int(),
            "prompt_length": torch.tensor([len(prompt) for prompt in own]),
            "tokens": result.tokens.int(),
            "order": result.commit_step.int(),
        } | ({} if hidden is None else {"hidden": hidden})
        parts.append({name: tensor[kept] for name, tensor in tensors.items()})
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}, worst


@torch.inference_mode()
def rebuilding_error(model, result, hidden: torch.Tensor) -> float:
    """Largest difference between a token's probability at commitment and the head's on its stored hidden state."""
    weight = model.get_output_embeddings().weight
    logits = model.head(hidden[:CHECKED].to(weight.device, weight.dtype)).float()  # (n, G, V)
    tokens = result.tokens[:CHECKED].to(logits.device)
    rebuilt = logits.softmax(dim=-1).gather(-1, tokens[..., None])[..., 0].cpu()
    return (rebuilt - result.confidence[:CHECKED]).abs().max().item()


def collect(config: ExperimentConfig) -> None:
    """Collect the shards that are missing. Raises ValueError for settings that a started collection does not have."""
    require(config.trajectories is not None, "this config has no `trajectories` section: see configs/tiny_cdlm.yaml")
    settings, folder = config.trajectories, Path(config.trajectories.dir)
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    require(
        load_config(config.teacher).attention == "bidirectional",
        f"{config.teacher} is block-causal: paths come from a bidirectional one",
    )
    tokenizer = load_tokenizer(config.teacher)
    rows, prompts = usable_prompts(config, tokenizer)
    paths = len(prompts) * len(settings.temperatures)
    shards = shards_of(paths, settings.shard_rows)
    manifest = settings_provenance(config, tokenizer) | {
        "temperatures": list(settings.temperatures),
        "seed": settings.seed,
        "hidden": settings.hidden,
        "dtype": settings.dtype,
        "metric": settings.metric,
        "questions": len(prompts),
        "paths": paths,
        "shards": len(shards),
    }
    started = (folder / MANIFEST).is_file()
    if started:
        check_manifest(read_manifest(folder), manifest, folder)
    width = load_config(config.teacher).d_model if settings.hidden else 0
    needed = collection_bytes(paths, config.format.answer_length, width, getattr(torch, settings.dtype))
    print(f"{paths} paths of {config.format.answer_length} steps, {needed / GIGABYTE:.2f} GB in {folder}", flush=True)
    check_output(folder, needed)
    model, tokenizer = load_for_inference(config.teacher)
    manifest["teacher"] = weights_digest(model)
    if started:
        check_manifest(read_manifest(folder), manifest, folder)
    elif rank == 0:
        write_json(folder / MANIFEST, manifest)
    mine = [i for i in range(len(shards)) if i % world == rank]
    there = sum(len(shards[i]) for i in mine if shard_file(folder, i).is_file())
    total = sum(len(shards[i]) for i in mine)
    with Progress(total, "teacher's paths", "path", initial=there, quiet=rank > 0) as progress:
        for i in mine:
            if shard_file(folder, i).is_file():
                continue
            tensors, worst = collect_shard(config, model, tokenizer, rows, prompts, shards[i], progress)
            require(
                worst <= REBUILD_TOLERANCE[settings.dtype],
                f"shard {i}: probabilities from stored hidden states differ by {worst:.1e} from the decoding's: set "
                "trajectories.dtype=float32",
            )
            write_shard(folder, i, tensors)
            progress.add(0, f"kept {len(tensors['row'])} of {len(shards[i])}, rebuilt to {worst:.0e}")


def main():
    collect(load(ExperimentConfig, *command_line(__doc__)))


if __name__ == "__main__":
    exit_with_message(main)
