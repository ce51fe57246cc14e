"""The settings of an experiment, one frozen dataclass per concern; every default of the project exists here once."""

from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from cd4lm.config import STRICT, Count, NotNegative, Number, Positive, Probability, Share, require
from cd4lm.data.tiny_task import World
from cd4lm.decoding.options import DecodingOptions


@dataclass(frozen=True, config=STRICT)
class FormatConfig:
    """How a row becomes tokens.

    prompt_template: null uses the tokenizer's chat template (what evaluation uses); a string with {question} is raw
        text, for instance "{question} " (published for GSM8K) or "Instruction: {question}\\nSolution: " (code).
    end: what ends the answer before that: nothing more than its EOS, or the chat template's end-of-turn token (LLaDA's
        <|eot_id|>, Dream's <|im_end|>), with which LLaDA's own fine-tuning data ends a turn.
    eos: after the answer put no EOS (published), one, or fill the canvas with it (as LLaDA's own fine-tuning does).
    answer_length: canvas that `fill` fills, in tokens; a longer answer gets one EOS.
    max_length: longest prompt + answer kept, in tokens; longer rows are left out and counted.
    attend_padding: let real tokens see the padding of a batch (published).
    """

    prompt_template: str | None = None
    end: Literal["eos", "turn"] = "eos"
    eos: Literal["none", "one", "fill"] = "fill"
    answer_length: Count = 256
    max_length: Annotated[int, Field(ge=2)] = 512
    attend_padding: bool = False

    def __post_init__(self):
        template = self.prompt_template
        require(template is None or "{question}" in template, f"prompt_template={template!r} must contain {{question}}")


@dataclass(frozen=True, config=STRICT)
class DataConfig:
    """Where the rows come from and who wrote the answers.

    dataset: name for prepare_data; dir: its output folder, prepared first if it is missing; source: a local file
    instead of the hub; world: dials of the embedded task; max_samples: rows to prepare.
    answers: the data set's (published) or the teacher's own, decoded with CAD at answers_threshold,
    answers_temperature and answers_block_length; keep: of the teacher's answers all, or the right ones.
    """

    dataset: Literal["gsm8k", "opencode", "bs17k", "tiny"]
    dir: str
    world: World = field(default_factory=World)
    source: str | None = None
    max_samples: Count | None = None
    answers: Literal["data", "teacher"] = "data"
    answers_threshold: Probability = 0.95
    answers_temperature: NotNegative = 0.0
    answers_block_length: Count = 32
    keep: Literal["all", "right"] = "right"


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
class BlockCausalConfig:
    """The student's attention: its own block both ways and what comes before; null in an experiment is bidirectional.

    block_length: tokens per block; grid: blocks start where the answer starts, or count from position 0 (absolute).
    """

    block_length: Count = 32
    grid: Literal["answer", "absolute"] = "answer"


@dataclass(frozen=True, config=STRICT)
class TrajectoriesConfig:
    """How the teacher's paths from an all-mask answer are recorded: one token per step, block by block (CDLM).

    dir: where; temperatures: each question is answered once at each of them, 0 is greedy; rows: questions of the train
    split, null = all; the canvas is format.answer_length, grid where its blocks start (see block_causal).
    metric: module with score(row, text), to keep right answers only; null keeps all. dtype: of the stored hidden
    states. shard_rows: trajectories per file, the unit of resuming. skip_broken_shards: train on the rest where a file
    is damaged, instead of stopping.
    """

    dir: str
    temperatures: Annotated[tuple[NotNegative, ...], Field(min_length=1)] = (0.0, 0.5)
    block_length: Count = 32
    grid: Literal["answer", "absolute"] = "answer"
    rows: Count | None = None
    metric: str | None = None
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    batch_size: Count = 32
    shard_rows: Count = 256
    seed: int = 42
    skip_broken_shards: bool = False


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
class TrainConfig:
    """Optimization. epochs or max_steps (which wins) end a run; patience counts evaluations without a better loss.

    launch: an accelerate config file for several GPUs, null for one process. deepspeed settings live in that file.
    global_batch: rows of one optimizer step over all processes; null = batch_size x accumulation x the processes of
        the launch file. It never changes with NUM_PROCESSES: processes share the rows, in micro-batches of at most
        batch_size. shard_teacher: spread the frozen teacher over the processes.
    clip: largest norm of the gradient, .inf never clips. teacher_dtype: of a separate teacher's weights; auto is
    bfloat16 under bf16, else float32. compile: torch.compile on the blocks. group_by_length: micro-batches of rows of
    similar length. optimizer: adamw_8bit needs bitsandbytes.
    """

    epochs: Positive = 10
    max_steps: Count | None = None
    learning_rate: Positive = 5e-6
    schedule: Literal["constant_with_warmup", "linear", "cosine"] = "constant_with_warmup"
    warmup_steps: Annotated[int, Field(ge=0)] = 200
    weight_decay: NotNegative = 0.01
    clip: Positive = 1.0
    batch_size: Count = 2
    accumulation: Count = 4
    eval_every: Count = 50
    eval_rows: Count | None = None
    save_every: Count = 50
    log_every: Count = 10
    patience: Count | None = 15
    bf16: bool = True
    gradient_checkpointing: bool = True
    export_dtype: Literal["bfloat16", "float32"] = "bfloat16"
    seed: int = 42
    launch: str | None = None
    global_batch: Count | None = None
    shard_teacher: bool = False
    teacher_dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    optimizer: Literal["adamw", "adamw_8bit"] = "adamw"
    compile: bool = False
    group_by_length: bool = False


@dataclass(frozen=True, config=STRICT)
class LoRAConfig:
    """Low-rank adapters on the student, whose teacher is then the same weights with the adapters off.

    targets: null adapts every matrix of the blocks, else regular expressions for the whole name of a matrix within a
    block (q_proj in LLaDA, self_attn.q_proj in Dream and iLLaDA); each must match one at least. Embedding and output
    head lie outside the blocks and can never match. The update is alpha / rank times B A.
    """

    rank: Count = 16
    alpha: Positive = 32.0
    targets: Annotated[tuple[str, ...], Field(min_length=1)] | None = None


@dataclass(frozen=True, config=STRICT)
class CADEvalConfig:
    """Decode validation problems with CAD at every evaluation of a training run; the best checkpoint is kept by it.

    metric: module with score(row, response) -> bool. problems: the first so many rows of the validation split.
    decoder: options of another decoder (cd4lm.decoding.options), null is CAD at the threshold.
    Best is the highest accuracy, then the fewest forward passes.
    """

    metric: str = "cd4lm.data.tiny_task"
    problems: Count = 100
    batch_size: Count = 32
    threshold: Probability = 0.95
    block_length: Count = 32
    eos_hold_ratio: NotNegative = 0.0
    decoder: DecodingOptions | None = None


@dataclass(frozen=True, config=STRICT)
class EvaluateConfig:
    """The grid of decoders that the report compares, on held-out problems of the embedded task.

    split: `test` for the report; `validation` to choose settings, its results go to a folder of that name.
    fixed_steps: budgets of FixedSteps; thresholds: of CAD; headline: the threshold of the report's first sentence,
    null = each model's own, chosen on the first `validation_problems` of the validation split: of the thresholds that are
    as accurate there as the teacher at one token per step, less the margin, the one with the fewest forward passes.
    decoders: further ones, each the options (cd4lm.decoding.options) in which it differs from this section.
    margin: accuracy may fall this far under the teacher at one token per step and still count as equal.
    """

    split: Literal["test", "validation"] = "test"
    problems: Count = 500
    batch_size: Count = 250
    gen_length: Count = 256
    block_length: Count = 32
    eos_hold_ratio: NotNegative = 0.0
    fixed_steps: tuple[Count, ...] = (256, 128, 64)
    thresholds: tuple[Probability, ...] = (0.95, 0.9, 0.8)
    decoders: tuple[DecodingOptions, ...] = ()
    headline: Number | None = 0.95
    validation_problems: Count = 250
    margin: Annotated[Number, Field(ge=0, lt=1)] = 0.01
    seed: int = 0

    def __post_init__(self):
        require(self.gen_length in self.fixed_steps, f"fixed_steps must hold {self.gen_length}, one token per step")
        require(
            self.headline is None or self.headline in self.thresholds,
            f"thresholds must hold the headline {self.headline}",
        )


@dataclass(frozen=True, config=STRICT)
class ExperimentConfig:
    """One experiment: a teacher, data, the objective, optimization, and what the report measures.

    also: further students to train and compare, by name, each the settings in which it differs from this one.
    init_from: checkpoint that the student starts from, null = the teacher. block_causal: the student's attention, null
    keeps that of the checkpoint it starts from. cdlm: null trains with DSCD; CDLM needs trajectories.
    evaluate: null for experiments whose evaluation is the benchmark scripts'.
    lora: null trains every weight beside a frozen copy. cad_eval: null evaluates the losses alone while training.
    """

    teacher: str
    output_dir: str
    data: DataConfig
    format: FormatConfig = field(default_factory=FormatConfig)
    dscd: DSCDConfig = field(default_factory=DSCDConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluate: EvaluateConfig | None = None
    also: dict[str, tuple[str, ...]] = field(default_factory=dict)
    lora: LoRAConfig | None = None
    cad_eval: CADEvalConfig | None = None
    init_from: str | None = None
    block_causal: BlockCausalConfig | None = None
    trajectories: TrajectoriesConfig | None = None
    cdlm: CDLMConfig | None = None

    def __post_init__(self):
        taken = {"teacher", "student", "checkpoints", "cells", "validation", "tensorboard"}
        for name in self.also:
            require(name not in taken and "/" not in name, f"also.{name}: choose another name, this one is taken")
        if self.cdlm is not None:
            self._check_cdlm()

    def _check_cdlm(self) -> None:
        require(self.trajectories is not None, "cdlm needs recorded trajectories: add a `trajectories` section")
        grouped = self.train.group_by_length
        require(not grouped, "group_by_length has no effect on trajectories, which have one length: leave it out")
        for name in ("block_length", "grid") if self.block_causal is not None else ():
            own, theirs = vars(self.block_causal)[name], vars(self.trajectories)[name]
            require(
                own == theirs,
                f"block_causal.{name}={own} but trajectories.{name}={theirs}: the student must be trained on the "
                "blocks that it decodes",
            )

    @property
    def results_dir(self) -> str:
        """Where measurements go: of the test split beside the student, of validation in a folder of their own."""
        apart = self.evaluate is not None and self.evaluate.split != "test"
        return f"{self.output_dir}/{self.evaluate.split}" if apart else self.output_dir
