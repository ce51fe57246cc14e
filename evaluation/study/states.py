"""How many of the states a decoding student visits lie on its teacher's own path for the same prompt.

A state is what stands in the answer after a step. The teacher's path commits one token per step and goes on to the end
of the canvas. Two readings: the tokens committed so far are those the teacher ends up with, in whatever order; or the
state itself, tokens and committed set, is one that the teacher visits.
"""

import torch

from evaluation.study.subject import Subject
from src.decoding import ConfidenceAdaptive, DecodeResult, FixedSteps
from src.decoding.policies import Policy


def shared_states(student: DecodeResult, teacher: DecodeResult) -> dict[str, list[int]]:
    """Per problem: the student's states, those with the teacher's tokens, those on the teacher's path."""
    found: dict[str, list[int]] = {"states": [], "same_tokens": [], "on_path": []}
    for i in range(len(student.tokens)):
        steps = student.commit_step[i]  # (G,)
        after = torch.arange(int(student.nfe[i]))[:, None]  # (S, 1)
        committed = (steps >= 0) & (steps <= after)  # (S, G)
        same = ~(committed & (student.tokens[i] != teacher.tokens[i])).any(dim=1)  # (S,)
        # The teacher's committed sets grow step by step: the only one of the same size is that after its count.
        order = teacher.commit_step[i].masked_fill(teacher.commit_step[i] < 0, teacher.tokens.shape[1])
        of_teacher = order < committed.sum(dim=1, keepdim=True)
        on_path = same & (of_teacher == committed).all(dim=1)
        for name, flags in (("states", torch.ones_like(same)), ("same_tokens", same), ("on_path", on_path)):
            found[name].append(int(flags.sum()))
    return found


def measure_states(subject: Subject, teacher: Subject, policy: Policy | None = None) -> dict:
    """With CAD at the headline threshold, or another policy."""
    study = subject.study
    policy = policy or ConfidenceAdaptive(threshold=study.headline)
    path = teacher.decode(study.subset, FixedSteps(steps=study.gen_length), stop_at_eos=False)
    return {"problems": shared_states(subject.decode(study.subset, policy), path)}
