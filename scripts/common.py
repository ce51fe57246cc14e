"""What the generating command lines share: their options, loading, and the printed result."""

import argparse
import json
import os
import time
from collections.abc import Sequence
from dataclasses import fields
from functools import cached_property
from pathlib import Path

import torch

from cd4lm.config import require
from cd4lm.data.examples import encode_prompt, end_ids
from cd4lm.decoding import DecodeConfig, DecodeResult, decode
from cd4lm.decoding.caches import CACHES, exact_cache
from cd4lm.decoding.checks import check_prompt, check_settings
from cd4lm.decoding.generation_settings import GenerationSettings
from cd4lm.decoding.policies import Policy
from cd4lm.decoding.policy_options import INTEGERS, POLICIES, PolicyOptions, choose_policy
from cd4lm.model import DiffusionLM
from cd4lm.model.loading import load_config, load_network, tokenizer_for_inference

ROOT = Path(__file__).resolve().parents[1]


def default_checkpoint() -> Path:
    """The student that run_training.sh makes, or the bundled teacher until there is one."""
    student = ROOT / "outputs/tiny/student"
    return student if student.is_dir() else ROOT / "checkpoints/tiny_teacher"


def add_generation_options(parser: argparse.ArgumentParser) -> None:
    """The published options of both generators; lengths default to the checkpoint's generation settings."""
    parser.add_argument("--model_path", type=Path, default=default_checkpoint(), help="checkpoint folder or hub name")
    parser.add_argument("--gen_length", type=int, help="answer canvas in tokens")
    parser.add_argument("--block_length", type=int, help="block in tokens")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--cfg_scale", type=float, default=0.0)
    parser.add_argument(
        "--eos_threshold_ratio", type=float, default=0.0, help="hold EOS back until this share is committed"
    )
    parser.add_argument("--seed", type=int, default=0)
    names = (
        f"one of {', '.join(CACHES)}; prefix and dual are approximate; default: the fastest exact one of the checkpoint"
    )
    parser.add_argument("--cache", help=names)
    parser.add_argument("--refresh_interval", type=int, metavar="N", help="steps between refreshes of prefix and dual")
    parser.add_argument("--compile", action="store_true", help="compile the step; slow at first")


def add_dynamic_options(parser: argparse.ArgumentParser) -> None:
    """CAD's published options, and those of the other policies; what is not given comes from the checkpoint."""
    group = parser.add_argument_group("policy", "default: the checkpoint's generation settings, else CAD at 0.95")
    group.add_argument("--policy", metavar="NAME", help=f"one of {', '.join(POLICIES)}; a parameter alone implies it")
    for name, entry in POLICIES.items():
        if name != "fixed":  # steps and remasking are the fixed decoder's own command line
            kind = int if entry.option in INTEGERS else float
            group.add_argument(f"--{entry.option}", type=kind, metavar="X", help=f"{name}: {entry.help}")
    group.add_argument("--min_tokens_per_step", type=int, metavar="N", help="default 1")
    group.add_argument("--max_tokens_per_step", type=int, metavar="N", help="default 32")
    group.add_argument("--max_steps_per_block", type=int, metavar="N", help="then the rest of the block is committed")


def policy_of(arguments: argparse.Namespace) -> Policy:
    """The policy that a command line asks for, its checkpoint's settings filling what is left open."""
    given = vars(arguments)
    options = PolicyOptions(**{f.name: given[f.name] for f in fields(PolicyOptions) if f.name in given})
    stored = GenerationSettings.load(arguments.model_path)
    canvas = stored.canvas(arguments.gen_length, arguments.block_length)
    return choose_policy(options, stored, canvas["gen_length"])


def check_output(option: str, path: Path) -> None:
    """Raise ValueError before long work whose result could not be written to the file `path`."""
    folder = path.absolute().parent
    require(folder.is_dir(), f"{option} {path}: {folder} is not a folder: make it or choose another")
    require(not path.is_dir(), f"{option} {path} is a folder: name a file in it")
    require(os.access(folder, os.W_OK), f"{option} {path}: {folder} cannot be written: choose another folder")


def write_text(path: Path, text: str) -> None:
    """Write a file all or nothing."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


class Generator:
    """A checkpoint with the decoding settings of a command line; all is checked before the weights are read."""

    def __init__(self, arguments: argparse.Namespace):
        self.folder = arguments.model_path
        self.model_config = load_config(self.folder)
        self.tokenizer = tokenizer_for_inference(self.folder)
        settings = GenerationSettings.load(self.folder)
        self.config = DecodeConfig(
            mask_id=self.model_config.mask_token_id,
            eos_ids=end_ids(self.tokenizer),
            **settings.canvas(arguments.gen_length, arguments.block_length),
            temperature=arguments.temperature,
            cfg_scale=arguments.cfg_scale,
            eos_hold_ratio=arguments.eos_threshold_ratio,
            seed=arguments.seed,
            cache=arguments.cache or exact_cache(self.model_config.attention),
            refresh_interval=arguments.refresh_interval,
            compile=arguments.compile,
        )

    def check(self, policy: Policy) -> None:
        """Raise ValueError for a policy or settings with which this checkpoint cannot be decoded."""
        check_settings(self.model_config, policy, self.config)

    @cached_property
    def model(self) -> DiffusionLM:
        """The weights, read when first needed."""
        return load_network(self.folder)

    def encode(self, question: str) -> torch.Tensor:
        """Token ids (P,) of a question in the chat template. Raises ValueError for words outside a closed vocabulary."""
        ids = encode_prompt(self.tokenizer, question)
        if self.tokenizer.unk_token_id is not None:
            unknown = [
                w for w in question.split() if self.tokenizer.convert_tokens_to_ids(w) == self.tokenizer.unk_token_id
            ]
            require(
                not unknown,
                f"this checkpoint does not know the words {', '.join(unknown)}; see src/cd4lm/data/tiny_task.py",
            )
        return torch.tensor(ids)

    def text(self, tokens: torch.Tensor) -> str:
        return self.tokenizer.decode(tokens)

    def run(self, prompts: Sequence[torch.Tensor], policy: Policy, on_step=None) -> tuple[DecodeResult, float]:
        """Decode, and time the decoding in seconds."""
        self.check(policy)
        for i, prompt in enumerate(prompts):
            check_prompt(self.model_config, i, prompt, self.config)
        model = self.model
        start = time.perf_counter()
        result = decode(model, prompts, policy, self.config, on_step=on_step)
        return result, time.perf_counter() - start


def generate_and_print(arguments: argparse.Namespace, policy: Policy) -> None:
    """Answer every --prompt and print text and counts, as lines or as JSON."""
    generator = Generator(arguments)
    prompts = [generator.encode(prompt) for prompt in arguments.prompt]
    result, seconds = generator.run(prompts, policy)
    for i, prompt in enumerate(arguments.prompt):
        length, nfe = result.lengths[i].item(), result.nfe[i].item()
        record = {
            "prompt": prompt,
            "answer": generator.text(result.tokens[i, :length]),
            "nfe": nfe,
            "tokens": length,
            "tokens_per_forward": round(length / nfe, 2),
            "commits": result.commits[i],
        }
        if arguments.json:
            print(json.dumps(record))
        else:
            print(
                f"{record['answer']}\n[{length} tokens, {nfe} NFE, {record['tokens_per_forward']} tokens per forward]"
            )
    if not arguments.json:
        total = result.lengths.sum().item()
        print(f"[{total / seconds:.1f} tokens/s before EOS]")


def add_prompt_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prompt", nargs="+", required=True, help="one or more questions, decoded as one batch")
    parser.add_argument("--json", action="store_true", help="one JSON object per prompt instead of text")
