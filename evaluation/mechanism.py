"""What the papers say happens inside, measured directly: invariance, the teacher's path, calibration.

All students of a teacher are measured on the same states: its own answers, one token per step.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from cd4lm.data.examples import AnswerCollator, encode_prompt, end_ids
from cd4lm.decoding import DecodeResult, DecodingOptions, decode_stream
from cd4lm.diffusion.masking import nested_masks
from cd4lm.diffusion.noise import row_keys

STATES = 4  # pairs of states of each answer
RATIOS = {"student_ratio": (0.7, 0.9), "teacher_share": (0.3, 0.5), "teacher_ratio": (0.1, 0.6)}  # heavy and light
SALT = 90


def decode(model, tokenizer, rows: list[dict], options: DecodingOptions, batch_size: int) -> DecodeResult:
    """Answers to rows, with everything the engine tells about them."""
    prompts = [torch.tensor(encode_prompt(tokenizer, row["question"])) for row in rows]
    decoder = options.decoder(model.config, end_ids(tokenizer))
    return DecodeResult.join(list(decode_stream(model, prompts, decoder.policy, decoder.config, batch_size=batch_size)))


@torch.inference_mode()
def invariance(model, tokenizer, path: DecodeResult, batch_size: int) -> dict[str, float]:
    """Whether predictions depend on the state they are made from (CD4LM: a student's should not).

    path: finished answers. Of each, STATES pairs of a heavily masked state and a lightly masked one within it (the masks of
    DSCD). On what both mask: `agreement`, the share of positions with one argmax; `kl`, mean KL(light || heavy) in nats;
    `light` and `heavy`, the share of argmaxes that are the answer's tokens. The answer counts up to its EOS.
    """
    collate = AnswerCollator(pad_id=tokenizer.pad_token_id)
    examples = [
        {
            "example_id": i,
            "prompt": path.prompts[i].tolist(),
            "answer": path.tokens[i, : int(path.lengths[i]) + 1].tolist(),
        }
        for i in range(len(path.tokens))
    ]
    device = next(model.parameters()).device
    sums = torch.zeros(5, dtype=torch.float64)
    for start in range(0, len(examples), batch_size):
        batch = {name: part.to(device) for name, part in collate(examples[start : start + batch_size]).items()}
        for k in range(STATES):
            heavy, light = nested_masks(batch["answer"], row_keys(batch["example_id"], SALT, k), **RATIOS)
            logits = [
                model(
                    input_ids=batch["input_ids"].masked_fill(masked, model.config.mask_token_id),
                    attention_mask=batch["attention_mask"],
                    prompt_length=batch["prompt_length"],
                    logits_at=light,
                ).logits.float()
                for masked in (light, heavy)
            ]
            log_p = [F.log_softmax(z, dim=-1) for z in logits]
            first, second = (z.argmax(dim=-1) for z in logits)
            truth = batch["input_ids"][light]
            kl = F.kl_div(log_p[1], log_p[0], log_target=True, reduction="sum")
            found = [(first == second).sum(), kl, (first == truth).sum(), (second == truth).sum(), light.sum()]
            sums += torch.stack([value.double() for value in found]).cpu()
    names = ("agreement", "kl", "light", "heavy")
    return {name: float(value / sums[4]) for name, value in zip(names, sums, strict=False)}


def on_path(student: DecodeResult, teacher: DecodeResult) -> dict[str, float]:
    """Shares of the states that a decoding student visits which lie on its teacher's own path for the same prompt.

    A state is what stands in the answer after a step, up to the student's EOS. `same_tokens`: all tokens committed so far
    are those the teacher ends up with, in whatever order; `on_path`: the teacher, one token per step, visits the state.
    """
    counts = torch.zeros(3, dtype=torch.float64)
    for i in range(len(student.tokens)):
        answer = torch.arange(student.tokens.shape[1]) <= student.lengths[i]  # (G,)
        steps = student.commit_step[i]  # (G,)
        after = torch.arange(int(student.nfe[i]))[:, None]  # (S, 1)
        committed = answer & (steps >= 0) & (steps <= after)  # (S, G)
        same = ~(committed & (student.tokens[i] != teacher.tokens[i])).any(dim=1)  # (S,)
        # The teacher commits these places one by one, so it has one set of each size: those that came first.
        rank = teacher.commit_step[i].masked_fill(~answer, answer.numel()).argsort().argsort()  # (G,)
        visited = same & ((rank < committed.sum(dim=1, keepdim=True)) == committed).all(dim=1)
        counts += torch.stack([same.sum(), visited.sum(), torch.tensor(len(same))])
    return {"same_tokens": float(counts[0] / counts[2]), "on_path": float(counts[1] / counts[2])}


def calibration(result: DecodeResult, right: list[bool]) -> dict[str, list]:
    """Per answer the least confidence with which a token of it was committed, EOS included; is it right; its NFE."""
    answer = torch.arange(result.tokens.shape[1]) <= result.lengths[:, None]
    counted = answer & (result.commit_step >= 0)
    least = result.confidence.masked_fill(~counted, 1.0).amin(dim=1)
    nfe = [int(n) for n in result.nfe]
    return {
        "least_confidence": [round(value, 4) for value in least.tolist()],
        "right": [int(r) for r in right],
        "nfe": nfe,
    }


def mechanism(
    subject,
    teacher,
    rows: list[dict],
    options: DecodingOptions,
    one_token: DecodingOptions,
    batch: int,
    score: Callable[[dict, str], bool],
) -> dict:
    """All three of a (model, tokenizer) against its teacher's.

    options: the decoder whose states are looked at; one_token: the teacher's; score: whether a row's answer is right.
    """
    path = decode(*teacher, rows, one_token, batch)
    result = decode(*subject, rows, options, batch)
    texts = [
        subject[1].decode(tokens[:length].tolist())
        for tokens, length in zip(result.tokens, result.lengths.tolist(), strict=True)
    ]
    right = [score(row, text) for row, text in zip(rows, texts, strict=True)]
    return {
        "invariance": invariance(*subject, path, batch),
        "path": on_path(result, path),
        "calibration": calibration(result, right),
    }
