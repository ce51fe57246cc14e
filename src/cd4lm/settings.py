"""The settings of an experiment, one frozen dataclass per concern; every default of the project exists here once."""

from dataclasses import dataclass, field
from typing import Literal

from cd4lm.config import require


def _ordered(name: str, bounds: tuple[float, float]) -> None:
    low, high = bounds
    require(0 <= low <= high <= 1, f"{name}={list(bounds)} must be two ratios in order within [0, 1]")


@dataclass(frozen=True)
class FormatConfig:
    """How a row becomes tokens.

    prompt_template: null uses the tokenizer's chat template (what evaluation uses); a string with {question} is raw
        text, for instance "{question} " (published for GSM8K) or "Instruction: {question}\\nSolution: " (code).
    eos: after the answer put no EOS (published), one, or fill the canvas with it (as LLaDA's own fine-tuning does).
    answer_length: canvas that `fill` fills, in tokens; a longer answer gets one EOS.
    max_length: longest prompt + answer kept, in tokens; longer rows are left out and counted.
    attend_padding: let real tokens see the padding of a batch (published).
    """

    prompt_template: str | None = None
    eos: Literal["none", "one", "fill"] = "fill"
    answer_length: int = 256
    max_length: int = 512
    attend_padding: bool = False

    def __post_init__(self):
        template = self.prompt_template
        require(template is None or "{question}" in template, f"prompt_template={template!r} must contain {{question}}")
        require(self.answer_length > 0, f"answer_length={self.answer_length} must be positive")
        require(self.max_length > 1, f"max_length={self.max_length} must be at least 2")


@dataclass(frozen=True)
class DataConfig:
    """Where the rows come from and who wrote the answers.

    dataset: name for prepare_data; dir: its output folder, prepared first if it is missing; source: a local file
    instead of the hub; max_samples: rows to prepare.
    answers: the data set's (published) or the teacher's own, decoded with CAD at answers_threshold,
    answers_temperature and answers_block_length; keep: of the teacher's answers all, or the right ones.
    """

    dataset: Literal["gsm8k", "opencode", "tiny", "tiny_long"]
    dir: str
    source: str | None = None
    max_samples: int | None = None
    answers: Literal["data", "teacher"] = "data"
    answers_threshold: float = 0.95
    answers_temperature: float = 0.0
    answers_block_length: int = 32
    keep: Literal["all", "right"] = "right"


@dataclass(frozen=True)
class DSCDConfig:
    """The DSCD objective (CD4LM).

    temperature, initial_lambda, final_lambda, warmup_ratio: of the loss and its curriculum. clamp: upper bound of each
    part, 5.0 as published or null. masks: nested or independent. kl_positions: take the KL on all student-masked
    positions (published), on those masked for the teacher too, or on those the teacher sees. The four ratios and
    guards: see nested_masks; block masks use teacher_share and block_length alone, see block_nested_masks.
    lambda_schedule: constant keeps initial_lambda throughout. loss_chunk: positions whose logits exist at a time.
    """

    temperature: float = 2.0
    initial_lambda: float = 0.9
    final_lambda: float = 0.5
    warmup_ratio: float = 0.1
    clamp: float | None = None
    masks: Literal["nested", "independent", "block"] = "nested"
    kl_positions: Literal["student", "teacher", "visible"] = "teacher"
    student_ratio: tuple[float, float] = (0.40, 0.90)
    teacher_share: tuple[float, float] = (0.30, 0.70)
    teacher_ratio: tuple[float, float] = (0.10, 0.60)
    short_guards: bool = True
    lambda_schedule: Literal["cosine", "constant"] = "cosine"
    block_length: int = 32
    loss_chunk: int = 128

    def __post_init__(self):
        for name in ("block_length", "loss_chunk"):
            require(vars(self)[name] >= 1, f"{name}={vars(self)[name]} must be at least 1")
        require(self.temperature > 0, f"temperature={self.temperature} must be above 0")
        for name in ("initial_lambda", "final_lambda", "warmup_ratio"):
            value = vars(self)[name]
            require(0 <= value <= 1, f"{name}={value} must lie in [0, 1]")
        require(self.clamp is None or self.clamp > 0, f"clamp={self.clamp} must be above 0, or null for none")
        for name in ("student_ratio", "teacher_share", "teacher_ratio"):
            _ordered(name, vars(self)[name])


@dataclass(frozen=True)
class BlockCausalConfig:
    """The student's attention: its own block both ways and what comes before; null in an experiment is bidirectional.

    block_length: tokens per block; grid: blocks start where the answer starts, or count from position 0 (absolute).
    """

    block_length: int = 32
    grid: Literal["answer", "absolute"] = "answer"

    def __post_init__(self):
        require(self.block_length >= 1, f"block_length={self.block_length} must be at least 1")


@dataclass(frozen=True)
class TrajectoriesConfig:
    """How the teacher's paths from an all-mask answer are recorded: one token per step, block by block (CDLM).

    dir: where; temperatures: each question is answered once at each of them; rows: questions of the train split, null =
    all; the canvas is format.answer_length, grid where its blocks start (see block_causal). metric: module with score(row, text), to keep right answers only; null
    keeps all. dtype: of the stored hidden states. shard_rows: trajectories per file, the unit of resuming.
    skip_broken_shards: train on the rest where a file is damaged, instead of stopping.
    """

    dir: str
    temperatures: tuple[float, ...] = (0.0, 0.5)
    block_length: int = 32
    grid: Literal["answer", "absolute"] = "answer"
    rows: int | None = None
    metric: str | None = None
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    batch_size: int = 32
    shard_rows: int = 256
    seed: int = 42
    skip_broken_shards: bool = False

    def __post_init__(self):
        require(bool(self.temperatures), "temperatures must not be empty: [0.0] is greedy")
        require(min(self.temperatures) >= 0, f"temperatures={list(self.temperatures)} must be 0 (greedy) or above")
        for name in ("block_length", "batch_size", "shard_rows"):
            require(vars(self)[name] >= 1, f"{name}={vars(self)[name]} must be at least 1")
        require(self.rows is None or self.rows > 0, f"rows={self.rows} must be positive or null")


@dataclass(frozen=True)
class CDLMConfig:
    """The CDLM objective on recorded trajectories; the weights are those published for LLaDA (Dream: 1, 0.5, 0.01).

    distillation, consistency, denoising: weights of the three losses; at 0 a loss costs nothing. consistency_reach:
    `later` compares a state with its finished block, on the blocks after it; `block` compares it with a later state of
    the same block, on that block: the paper leaves open which is meant. loss_chunk: positions whose logits exist at a time.
    """

    distillation: float = 1.0
    consistency: float = 0.5
    denoising: float = 0.1
    consistency_reach: Literal["later", "block"] = "later"
    loss_chunk: int = 128

    def __post_init__(self):
        weights = (self.distillation, self.consistency, self.denoising)
        require(min(weights) >= 0 and max(weights) > 0, f"weights {weights} must be at least 0 and one of them above")
        require(self.loss_chunk >= 1, f"loss_chunk={self.loss_chunk} must be at least 1")


@dataclass(frozen=True)
class TrainConfig:
    """Optimisation. epochs or max_steps (which wins) end a run; patience counts evaluations without a better loss.

    launch: an accelerate config file for several GPUs, null for one process. deepspeed settings live in that file.
    global_batch: rows of one optimiser step over all processes; null = batch_size x accumulation x the processes of
        the launch file. It never changes with NUM_PROCESSES: processes share the rows, in micro-batches of at most
        batch_size. shard_teacher: spread the frozen teacher over the processes.
    max_skipped_steps: steps whose loss or gradient is not finite to leave out before one stops the run.
    teacher_dtype: of a separate teacher's weights; auto is bfloat16 under bf16, else float32. compile: torch.compile
    on the blocks. group_by_length: micro-batches of rows of similar length. optimizer: adamw_8bit needs bitsandbytes.
    """

    epochs: float = 10
    max_steps: int | None = None
    learning_rate: float = 5e-6
    schedule: Literal["constant_with_warmup", "linear", "cosine"] = "constant_with_warmup"
    warmup_steps: int = 200
    weight_decay: float = 0.01
    clip: float = 1.0
    batch_size: int = 2
    accumulation: int = 4
    eval_every: int = 50
    eval_rows: int | None = None
    save_every: int = 50
    log_every: int = 10
    patience: int | None = 15
    bf16: bool = True
    gradient_checkpointing: bool = True
    export_dtype: Literal["bfloat16", "float32"] = "bfloat16"
    seed: int = 42
    launch: str | None = None
    global_batch: int | None = None
    shard_teacher: bool = False
    max_skipped_steps: int = 0
    teacher_dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    optimizer: Literal["adamw", "adamw_8bit"] = "adamw"
    compile: bool = False
    group_by_length: bool = False

    def __post_init__(self):
        require(self.clip > 0, f"clip={self.clip} must be above 0; .inf never clips")
        require(
            self.global_batch is None or self.global_batch > 0, f"global_batch={self.global_batch} must be positive"
        )
        require(self.max_skipped_steps >= 0, f"max_skipped_steps={self.max_skipped_steps} must not be negative")
        for name in ("batch_size", "accumulation", "eval_every", "save_every", "log_every"):
            require(vars(self)[name] >= 1, f"{name}={vars(self)[name]} must be at least 1")
        require(self.learning_rate > 0, f"learning_rate={self.learning_rate} must be above 0")
        require(self.max_steps is None or self.max_steps > 0, f"max_steps={self.max_steps} must be positive or null")


@dataclass(frozen=True)
class LoRAConfig:
    """Low-rank adapters on the student, whose teacher is then the same weights with the adapters off.

    targets: regular expressions for the whole name of a matrix within a block; each must match one at least. The
    output head lies outside the blocks and can never match. The update is alpha / rank times B A.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "attn_out", "ff_proj", "up_proj", "ff_out")

    def __post_init__(self):
        require(self.rank >= 1, f"rank={self.rank} must be at least 1")
        require(self.alpha > 0, f"alpha={self.alpha} must be above 0")
        require(0 <= self.dropout < 1, f"dropout={self.dropout} must lie in [0, 1)")
        require(bool(self.targets), "targets must not be empty: name at least one matrix, for instance q_proj")


@dataclass(frozen=True)
class CADEvalConfig:
    """Decode validation problems with CAD at every evaluation of a training run; the best checkpoint is kept by it.

    metric: module with score(row, response) -> bool. problems: the first so many rows of the validation split.
    Best is the highest accuracy, then the fewest forward passes.
    """

    metric: str = "cd4lm.data.tiny_task"
    problems: int = 100
    batch_size: int = 32
    threshold: float = 0.95
    block_length: int = 32
    eos_hold_ratio: float = 0.0

    def __post_init__(self):
        require(self.problems > 0 and self.batch_size > 0, "problems and batch_size must be positive")
        require(0 < self.threshold <= 1, f"threshold={self.threshold} must lie in (0, 1]")


@dataclass(frozen=True)
class EvaluateConfig:
    """The grid of decoders that the report compares, on held-out problems of the embedded task.

    split: `test` for the report; `validation` to choose settings, its results go to a folder of that name.
    fixed_steps: budgets of FixedSteps; thresholds: of CAD; headline: the threshold of the report's first sentence.
    margin: accuracy may fall this far under the teacher at one token per step and still count as equal.
    latency_problems: so many problems are also answered one at a time, to take the latency; 0 = not measured.
    """

    split: Literal["test", "validation"] = "test"
    problems: int = 500
    batch_size: int = 250
    gen_length: int = 256
    block_length: int = 32
    eos_hold_ratio: float = 0.0
    fixed_steps: tuple[int, ...] = (256, 128, 64)
    thresholds: tuple[float, ...] = (0.95, 0.9, 0.8)
    headline: float = 0.95
    margin: float = 0.01
    latency_problems: int = 0
    seed: int = 0

    def __post_init__(self):
        require(self.problems > 0 and self.batch_size > 0, "problems and batch_size must be positive")
        require(bool(self.fixed_steps) and bool(self.thresholds), "fixed_steps and thresholds must not be empty")
        require(self.gen_length in self.fixed_steps, f"fixed_steps must hold {self.gen_length}, one token per step")
        for tau in self.thresholds:
            require(0 < tau <= 1, f"thresholds={list(self.thresholds)} must lie in (0, 1]: {tau} is not a probability")
        require(self.headline in self.thresholds, f"thresholds must hold the headline {self.headline}")
        require(0 <= self.margin < 1, f"margin={self.margin} must lie in [0, 1)")


@dataclass(frozen=True)
class ExperimentConfig:
    """One experiment: a teacher, data, the objective, optimisation, and what the report measures.

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
        taken = {"teacher", "student", "checkpoints", "cells", "validation", "tensorboard", "nonfinite"}
        for name in self.also:
            require(name not in taken and "/" not in name, f"also.{name}: choose another name, this one is taken")
        if self.cdlm is not None:
            require(self.trajectories is not None, "cdlm needs recorded trajectories: add a `trajectories` section")
            require(
                not self.train.group_by_length,
                "group_by_length does nothing for trajectories of one length: leave it out",
            )
            for name in ("block_length", "grid") if self.block_causal is not None else ():
                own, theirs = vars(self.block_causal)[name], vars(self.trajectories)[name]
                require(
                    own == theirs,
                    f"block_causal.{name}={own} but trajectories.{name}={theirs}: the student must be trained on the "
                    "blocks that it decodes",
                )

    @property
    def results_dir(self) -> str:
        """Where measurements go: of the test split beside the student, of validation apart, so neither hides the other."""
        apart = self.evaluate is not None and self.evaluate.split != "test"
        return f"{self.output_dir}/{self.evaluate.split}" if apart else self.output_dir
