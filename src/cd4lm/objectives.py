"""The settings of the training objectives, one frozen dataclass each; the section that an experiment has is its objective.

Weights of a loss's parts carry the names under which the parts are logged; at 0 a part is not computed. loss_chunk:
positions whose logits exist at a time.
"""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from cd4lm.config import STRICT, Count, NotNegative, Positive, Share, require

# What each is called in print, by the name of its section; an experiment with none of the others trains with DSCD.
OBJECTIVES = {"dscd": "DSCD", "cdlm": "CDLM", "dparallel": "dParallel", "d3llm": "d3LLM", "tad": "TAD"}
ON_PATHS = ("cdlm", "d3llm", "tad")  # need the teacher's recorded paths


@dataclass(frozen=True, config=STRICT)
class DSCDConfig:
    """The DSCD objective (CD4LM).

    temperature, initial_lambda, final_lambda, warmup_ratio: of the loss and its curriculum; two equal lambdas keep
    lambda constant. clamp: upper bound of each part, 5.0 as published or null. masks: nested or independent, or the
    states of block-wise decoding. kl_positions: take the KL on all student-masked positions (published), on those
    masked for the teacher too, or on those the teacher sees. student_ratio, teacher_share, teacher_ratio,
    short_guards: see nested_masks; block masks use teacher_share and block_length alone, see block_nested_masks.
    loss_chunk: positions whose logits exist at a time.
    """

    temperature: Positive = 2.0
    initial_lambda: Share = 0.9
    final_lambda: Share = 0.5
    warmup_ratio: Share = 0.1
    clamp: Positive | None = None
    masks: Literal["nested", "independent", "block"] = "nested"
    kl_positions: Literal["student", "teacher", "visible"] = "teacher"
    student_ratio: tuple[Share, Share] = (0.40, 0.90)
    teacher_share: tuple[Share, Share] = (0.30, 0.70)
    teacher_ratio: tuple[Share, Share] = (0.10, 0.60)
    short_guards: bool = True
    block_length: Count = 32
    loss_chunk: Count = 128

    def __post_init__(self):
        for name in ("student_ratio", "teacher_share", "teacher_ratio"):
            low, high = vars(self)[name]
            require(low <= high, f"{name}={[low, high]} must be in ascending order: [{high}, {low}]")


@dataclass(frozen=True, config=STRICT)
class CDLMConfig:
    """The CDLM objective on recorded trajectories; the weights are those published for LLaDA (Dream: 1, 0.5, 0.01).

    distillation, consistency, denoising: weights of the three losses; at 0 a loss is not computed. consistency_reach:
    `later` compares a state with its finished block, on the blocks after it; `block` compares it with a later state of
    the same block, on that block: the paper does not say which. loss_chunk: positions whose logits exist at a time.
    """

    distillation: NotNegative = 1.0
    consistency: NotNegative = 0.5
    denoising: NotNegative = 0.1
    consistency_reach: Literal["later", "block"] = "later"
    loss_chunk: Count = 128

    def __post_init__(self):
        weights = (self.distillation, self.consistency, self.denoising)
        require(max(weights) > 0, f"weights {weights} must not all be 0: nothing would be trained")


@dataclass(frozen=True, config=STRICT)
class DParallelConfig:
    """dParallel's certainty forcing with complementary masks.

    block_length: of the block that is masked. certainty: weight beta of the entropy of what is predicted right already;
    temperature: of that entropy.
    """

    block_length: Count = 32
    certainty: NotNegative = 2.0
    temperature: Positive = 0.5
    loss_chunk: Count = 128


@dataclass(frozen=True, config=STRICT)
class D3LLMConfig:
    """d3LLM: dParallel's loss on states of the teacher's path.

    block_lengths: of the block that is masked, one after another in equal shares of the run (as many as epochs: one in
    each). mask_ratio: share of the block that is masked, at the first step and at the last. certainty, temperature: as
    for dParallel.
    """

    block_lengths: Annotated[tuple[Count, ...], Field(min_length=1)] = (16, 16, 24, 24, 32, 32)
    mask_ratio: tuple[Share, Share] = (0.0, 0.8)
    certainty: NotNegative = 2.0
    temperature: Positive = 0.5
    loss_chunk: Count = 128


@dataclass(frozen=True, config=STRICT)
class TADConfig:
    """TAD: cross-entropy on what the teacher's path reveals next, distillation of the privileged teacher on the rest.

    delta: steps from a state to the later one. reconstruction, distillation: weights of the cross-entropy and of the KL;
    temperature: of the KL. system: the system message that only the teacher sees, {answer} being the data's answer.
    max_length: most tokens of the teacher's longer input, null = the checkpoint's positions; questions whose answer
    needs more are left out and counted.
    """

    delta: Count = 8
    reconstruction: NotNegative = 1.0
    distillation: NotNegative = 1.0
    temperature: Positive = 1.0
    system: str = "A correct answer to the question reads: {answer}"
    max_length: Count | None = None
    loss_chunk: Count = 128

    def __post_init__(self):
        weights = (self.reconstruction, self.distillation)
        require(max(weights) > 0, f"weights {weights} must not both be 0: nothing would be trained")
        require("{answer}" in self.system, f"system={self.system!r} must contain {{answer}}")
