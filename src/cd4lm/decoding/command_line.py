"""What the generating command lines share: the checkpoint, checked before its weights are read, and the printed answers."""

import argparse
import gc
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from cd4lm.config import CommandParser, require
from cd4lm.decoding.options import DecodingOptions
from cd4lm.io import ROOT


def default_checkpoint() -> Path:
    """The student that run_training.sh makes, or the bundled teacher until there is one."""
    student = ROOT / "outputs/tiny/student"
    return student if student.is_dir() else ROOT / "checkpoints/tiny_teacher"


def parser_of(description: str, leave_out: Sequence[str] = ()) -> argparse.ArgumentParser:
    """A parser with --model_path and the decoding options."""
    parser = CommandParser(description)
    parser.add_argument("--model_path", type=Path, default=default_checkpoint(), help="checkpoint folder or hub name")
    DecodingOptions.add_arguments(parser, leave_out=leave_out)
    return parser


@contextmanager
def uncollected() -> Iterator[None]:
    """Without Python's garbage collector, which finds nothing while libraries are imported and takes a tenth of that time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class Answerer:
    """A checkpoint with a decoder. Raises ValueError for anything that cannot be decoded before the weights are read."""

    def __init__(self, folder: Path, options: DecodingOptions):
        with uncollected():
            from cd4lm.model.loading import load_config, tokenizer_for_inference

            self.folder, self.model_config = folder, load_config(folder)
            self.tokenizer = tokenizer_for_inference(folder)
            self.decoder = options.for_checkpoint(folder, self.tokenizer)

    @cached_property
    def model(self):
        """The weights, read when first needed."""
        from cd4lm.model.loading import load_network

        return load_network(self.folder)

    @cached_property
    def has_turns(self) -> bool:
        """Whether the model is to see earlier questions and answers: its template shows them, its vocabulary is open.

        The embedded models, whose vocabulary is closed, were trained on single questions.
        """
        from cd4lm.data.examples import chat_text

        words = ["first question", "first answer", "second question"]
        turns = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(words)]
        try:
            text = chat_text(self.tokenizer, turns)
        except ValueError:
            return False
        return self.tokenizer.unk_token_id is None and all(word in text for word in words)

    def encode(self, question: str, earlier: Sequence[dict] = ()):
        """Token ids (P,) of a question in the chat template, after earlier messages (role, content) if there are any.

        Raises ValueError for one that cannot be decoded.
        """
        import torch

        from cd4lm.data.examples import encode_prompt
        from cd4lm.decoding.checks import check_prompt

        ids = torch.tensor(encode_prompt(self.tokenizer, question, earlier=earlier))
        self.check_words(question)
        check_prompt(self.model_config, 0, ids, self.decoder.config)
        return ids

    def check_words(self, text: str) -> None:
        """Raise ValueError naming words outside a closed vocabulary."""
        tokenizer = self.tokenizer
        if tokenizer.unk_token_id is not None:
            ids = {word: tokenizer(word, add_special_tokens=False)["input_ids"] for word in text.split()}
            unknown = [word for word, found in ids.items() if tokenizer.unk_token_id in found]
            require(
                not unknown,
                f"this checkpoint does not know the words {', '.join(unknown)}; those it knows are in its tokenizer.json",
            )

    def answers(self, prompts: Sequence, on_step: Callable | None = None) -> list:
        """A Generation for each prompt, in their order, decoded as one batch."""
        from cd4lm.decoding import generate

        how = {"batch_size": len(prompts), "on_step": on_step}
        found = list(generate(self.model, self.tokenizer, prompts, self.decoder, **how))
        return sorted(found, key=lambda g: g.index)


def generate_and_print(arguments: argparse.Namespace, options: DecodingOptions) -> None:
    """Answer every --prompt and print text and counts, as lines or as JSON."""
    answerer = Answerer(arguments.model_path, options)
    prompts = [answerer.encode(prompt) for prompt in arguments.prompt]
    network = answerer.model
    if arguments.packed_head:
        from cd4lm.model.packing import pack_head

        pack_head(network, answerer.decoder.config.block_length)
    start = time.perf_counter()
    found = answerer.answers(prompts)
    seconds = time.perf_counter() - start
    for prompt, g in zip(arguments.prompt, found, strict=True):
        counts = {"nfe": g.nfe, "tokens": len(g.tokens), "tokens_per_forward": round(len(g.tokens) / g.nfe, 2)}
        if arguments.json:
            record = {"prompt": prompt, "answer": g.text, **counts, "commits": g.result.commits[0]}
            print(json.dumps(record, ensure_ascii=False))
        else:
            rate = counts["tokens_per_forward"]
            print(f"{g.text}\n[{counts['tokens']} tokens, {g.nfe} NFE, {rate} tokens per forward]")
    if not arguments.json:
        print(f"[{sum(len(g.tokens) for g in found) / seconds:.1f} tokens/s before EOS]")


def add_prompts(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prompt", nargs="+", required=True, help="one or more questions, decoded as one batch")
    parser.add_argument("--json", action="store_true", help="one JSON object per prompt instead of text")
    packed = "a CPU's copy of the head for few rows: faster with a cache; as much memory again, near ties may flip"
    parser.add_argument("--packed_head", action="store_true", help=packed)
