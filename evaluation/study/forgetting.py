"""What a student has forgotten of the data: the likelihood of its answers, and the variety of its wordings.

A student of its teacher's answers is trained on a few wordings of the eight. Both measures look outside that target.
"""

import re
from itertools import islice

import torch

from cd4lm.data.examples import encode_answer
from cd4lm.data.tiny_task import WORDINGS
from cd4lm.decoding import FixedSteps
from cd4lm.decoding.likelihood import answer_log_p, masked_rows
from cd4lm.diffusion.likelihood import likelihood_masks
from cd4lm.diffusion.noise import row_keys
from cd4lm.settings import FormatConfig
from evaluation.study.subject import Subject

NUMBER, WORD = r"-?\d+", r"[a-z]+"
_FIELDS = {"a": NUMBER, "b": NUMBER, "c": NUMBER, "op": r"[-+*]", "name": WORD, "obj": WORD}


def pattern(wording: str) -> re.Pattern:
    """The wording as a regular expression: its words as they are, its fields as numbers, signs or words."""
    parts = re.split(r"\{(\w+)\}", wording)
    return re.compile("".join(_FIELDS[p] if i % 2 else re.escape(p) for i, p in enumerate(parts)))


PATTERNS = tuple(map(pattern, WORDINGS))


def count_wordings(answer: str) -> list[int]:
    """How often each wording occurs among an answer's steps; the last entry counts what is none of them."""
    counts = [0] * (len(WORDINGS) + 1)
    for step in answer.split("####")[0].split(" ."):
        if step.strip():
            text = step.strip() + " ."
            found = [i for i, p in enumerate(PATTERNS) if p.fullmatch(text)]
            counts[found[0] if found else len(WORDINGS)] += 1
    return counts


def sampled_wordings(subject: Subject) -> list[list[int]]:
    """The wordings of one sample per problem, one token per step at temperature 1: (problems, 8 + 1)."""
    result = subject.decode(subject.study.subset, FixedSteps(steps=subject.study.gen_length), temperature=1.0)
    answers = zip(result.tokens, result.lengths.tolist(), strict=True)
    return [count_wordings(subject.tokenizer.decode(tokens[:length])) for tokens, length in answers]


def answer_nll(subject: Subject) -> list[float]:
    """Masked-denoising loss of the data's answer to each held-out problem, in nats per token of the answer.

    The canvas is answer and EOS, masked as for the Monte Carlo likelihood (LLaDA, equation 6) with the same masks for
    every model; the terms of the EOS are left out, since not every student was taught them.
    """
    study, n = subject.study, subject.study.gen_length
    form = FormatConfig(eos="fill", answer_length=n)
    rows = subject.rows[: study.held_out]
    answers = [torch.tensor(encode_answer(subject.tokenizer, row["answer"], form)[:n]) for row in rows]
    masks = [likelihood_masks(n, study.nll_samples, row_keys(torch.tensor([i]), study.seed)) for i in range(len(rows))]
    states = masked_rows(list(zip(subject.prompts, answers, strict=False)), masks, subject.mask_id)
    log_p = []
    while batch := list(islice(states, study.batch_size)):
        log_p += answer_log_p(subject.model, batch, subject.mask_id)
    found = []
    for i, (answer, masked) in enumerate(zip(answers, masks, strict=True)):
        own = int((answer != subject.tokenizer.eos_token_id).sum())
        part = torch.stack(log_p[i * len(masked) : (i + 1) * len(masked)])[:, :own]  # (samples, own)
        weight = n / masked.sum(dim=1)
        found.append(-(part.sum(dim=1) * weight).mean().item() / own)
    return found


def measure_forgetting(subject: Subject) -> dict:
    return {"problems": {"nll": answer_nll(subject), "wordings": sampled_wordings(subject)}}
