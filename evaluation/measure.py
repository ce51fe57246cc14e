"""Decode and score rows with one decoder: the documents of a run, for the embedded report, tuning and the study."""

import difflib
from collections.abc import Callable

import torch
from tqdm import tqdm

from cd4lm.data import tiny_task
from cd4lm.data.examples import encode_prompt
from cd4lm.decoding import Decoder, generate
from evaluation.metrics.scoring import METRICS
from evaluation.metrics.verdict import NO_ANSWER, RIGHT, WRONG


def measure(
    model,
    tokenizer,
    rows: list[dict],
    decoder: Decoder,
    *,
    batch_size: int,
    score: Callable[[dict, str], bool],
    label: str,
    on_answer: Callable[[], None] | None = None,
) -> list[dict]:
    """A document (see run.py) for every row, in their order. on_answer: called after each, in place of a bar."""
    prompts = [torch.tensor(encode_prompt(tokenizer, row["question"])) for row in rows]
    documents: dict[int, dict] = {}
    with tqdm(total=len(rows), desc=label, unit="problem", leave=False, disable=on_answer is not None) as bar:
        for g in generate(model, tokenizer, prompts, decoder, batch_size=batch_size):
            right = bool(score(rows[g.index], g.text))
            documents[g.index] = {
                "id": g.index,
                "doc": rows[g.index],
                "response": g.text,
                "right": right,
                "outcome": RIGHT if right else WRONG if g.text.strip() else NO_ANSWER,
                "nfe": g.nfe,
                "tokens": len(g.tokens),
                "seconds": round(g.seconds, 6),
                "clock": round(g.clock, 6),
                "rank": 0,
                "session": 1,
                "truncated": g.truncated,
            }
            bar.update()
            if on_answer is not None:
                on_answer()
    return [documents[i] for i in range(len(rows))]


def scorer(name: str) -> Callable[[dict, str], bool]:
    """The `score(doc, response)` of a metric, or ValueError that names those there are."""
    known = {"tiny": tiny_task, "gsm8k_numbers": METRICS["gsm8k"]} | METRICS
    if name in known:
        return known[name].score
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]}?" if close else f"use one of {', '.join(known)}"
    raise ValueError(f"metric {name!r} is unknown: {hint}")
