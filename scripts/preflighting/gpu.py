"""What only a machine with GPUs can show in seconds: processes that reach each other, bf16, a captured decoding step.

Every check takes the device, so that all of them run on a CPU too.
"""

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import torch

from cd4lm.data.examples import encode_prompt, end_ids
from cd4lm.data.tiny_task import make_row
from cd4lm.decoding import ConfidenceAdaptive, DecodeConfig, DecodeResult, decode
from cd4lm.io import ROOT
from cd4lm.model.loading import load_for_inference, load_tokenizer
from cd4lm.training.launch import torchrun
from preflighting.checks import GB, NO, OK, UNKNOWN, Row, guarded, row

SMALL = ROOT / "checkpoints/tiny_teacher"
SECONDS = 180  # after which processes that do not answer are given up
BF16_TOLERANCE = 0.05  # of the logits' norm


def rows(processes: int) -> list[Row]:
    """The lines for the GPUs of this machine, or one that says there is none."""
    gpus = torch.cuda.device_count()
    if gpus == 0:
        return [row("GPU", UNKNOWN, "none here: NCCL, bf16 and captured steps were not tried")]
    device = torch.device("cuda")
    names = ", ".join(sorted({torch.cuda.get_device_name(i) for i in range(gpus)}))
    return [
        row("GPU", OK if gpus >= processes else UNKNOWN, f"{gpus} here ({names}), {processes} asked for"),
        guarded("NCCL", collective, min(gpus, processes), device),
        guarded("bf16", bf16_against_float32, device),
        guarded("captured step", captured_against_eager, device),
    ]


def collective(check: str, processes: int, device: torch.device) -> Row:
    """Sums over all processes, with their rate."""
    if processes == 1:
        return row(check, UNKNOWN, "one process has nobody to reach")
    words, threads = torchrun([str(Path(__file__).with_name("collective.py")), device.type], processes)
    group = subprocess.Popen(
        words, env=os.environ | threads, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    try:
        out, err = group.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        group.terminate()
        group.communicate()
        return row(check, NO, f"{processes} processes did not reach each other in {SECONDS} s: check NCCL_DEBUG=INFO")
    if group.returncode:
        return row(check, NO, f"{processes} processes failed: {(err.strip().splitlines() or ['no message'])[-1]}")
    found = json.loads(out.strip().splitlines()[-1])
    what = f"{processes} processes add {found['bytes'] / GB:.2f} GB in {found['seconds'] * 1000:.0f} ms ({found['backend']})"
    return row(
        check, OK if found["right"] else NO, what if found["right"] else f"{what}, and the sum is wrong", **found
    )


def small_model(device: torch.device, dtype: torch.dtype):
    """The bundled teacher and a few prompts."""
    model, _ = load_for_inference(str(SMALL), dtype)
    tokenizer = load_tokenizer(str(SMALL))
    questions = [make_row("test", i, 0)["question"] for i in range(4)]
    prompts = [torch.tensor(encode_prompt(tokenizer, question)) for question in questions]
    config = DecodeConfig(
        mask_id=model.config.mask_token_id, eos_ids=tuple(end_ids(tokenizer)), gen_length=40, block_length=20
    )
    return model.to(device), prompts, config


def bf16_against_float32(check: str, device: torch.device) -> Row:
    """Logits of the bundled teacher in both precisions."""
    logits = []
    for dtype in (torch.float32, torch.bfloat16):
        model, prompts, config = small_model(device, dtype)
        x = torch.cat((prompts[0], torch.full((config.gen_length,), config.mask_id)))[None].to(device)
        with torch.no_grad():
            logits.append(model(input_ids=x).logits.float())
    off = ((logits[1] - logits[0]).norm() / logits[0].norm()).item()
    finite = bool(logits[1].isfinite().all())
    what = f"logits of {SMALL.name} in bf16 differ from float32 by {off:.1%} of their norm"
    return row(check, OK if finite and off <= BF16_TOLERANCE else NO, what, difference=off)


def captured_against_eager(check: str, device: torch.device, changes: dict | None = None) -> Row:
    """Answers of the bundled teacher with compiled steps, captured on a GPU, and with eager ones."""
    model, prompts, config = small_model(device, torch.float32)
    config = replace(config, **(changes or {}))
    policy = ConfidenceAdaptive(threshold=0.7)
    eager, captured = (
        decode(model, prompts, policy, replace(config, compile=on, length_bucket=128)) for on in (False, True)
    )
    same = agreement(eager, captured)
    what = (
        f"{same:.0%} of {len(prompts)} answers of {SMALL.name} are those of eager steps, {captured.nfe.sum()} forwards"
    )
    return row(check, OK if same == 1 else NO, what, same=same)


def agreement(a: DecodeResult, b: DecodeResult) -> float:
    """Share of answers that are the same up to their end."""
    each = zip(a.tokens, b.tokens, a.lengths.tolist(), b.lengths.tolist(), strict=True)
    return sum(n == m and torch.equal(x[:n], y[:n]) for x, y, n, m in each) / len(a.tokens)
