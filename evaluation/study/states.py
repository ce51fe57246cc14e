"""How many of the states a decoding student visits lie on its teacher's own path for the same prompt.

A state is what stands in the answer after a step. The teacher's path commits one token per step and goes on to the end
of the canvas. Two readings: the tokens committed so far are those the teacher ends up with, in whatever order; or the
state itself, tokens and committed set, is one that the teacher visits. Only the places of the student's answer count,
up to its EOS: what stands after it is padding.
"""

import torch

from cd4lm.decoding import ConfidenceAdaptive, DecodeResult, FixedSteps
from cd4lm.decoding.policies import Policy
from evaluation.study.subject import Subject


def shared_states(student: DecodeResult, teacher: DecodeResult) -> dict[str, list[int]]:
    """Per problem: the student's states, those with the teacher's tokens, those on the teacher's path."""
    found: dict[str, list[int]] = {"states": [], "same_tokens": [], "on_path": []}
    for i in range(len(student.tokens)):
        answer = torch.arange(student.tokens.shape[1]) <= student.lengths[i]  # (G,)
        steps = student.commit_step[i]  # (G,)
        after = torch.arange(int(student.nfe[i]))[:, None]  # (S, 1)
        committed = answer & (steps >= 0) & (steps <= after)  # (S, G)
        same = ~(committed & (student.tokens[i] != teacher.tokens[i])).any(dim=1)  # (S,)
        # The teacher commits these places one by one, so it has one set of each size: those that came first.
        rank = teacher.commit_step[i].masked_fill(~answer, answer.numel()).argsort().argsort()  # (G,)
        on_path = same & ((rank < committed.sum(dim=1, keepdim=True)) == committed).all(dim=1)
        for name, flags in (("states", torch.ones_like(same)), ("same_tokens", same), ("on_path", on_path)):
            found[name].append(int(flags.sum()))
    return found


def measure_states(subject: Subject, teacher: Subject, policy: Policy | None = None) -> dict:
    """With CAD at the headline threshold, or another policy."""
    study = subject.study
    policy = policy or ConfidenceAdaptive(threshold=study.headline)
    path = teacher.decode(study.subset, FixedSteps(steps=study.gen_length), stop_at_eos=False)
    return {"problems": shared_states(subject.decode(study.subset, policy), path)}
