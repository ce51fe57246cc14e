"""The settings of an experiment, one frozen dataclass per concern; every default of the project exists here once."""

from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from cd4lm.config import STRICT, Count, NotNegative, Number, Positive, Probability, require
from cd4lm.data.gsm8k_numbers import NumbersWorld
from cd4lm.data.tiny_task import World
from cd4lm.decoding.options import DecodingOptions
from cd4lm.objectives import OBJECTIVES, ON_PATHS, CDLMConfig, D3LLMConfig, DParallelConfig, DSCDConfig, TADConfig

Fraction = Annotated[Number, Field(ge=0, lt=1)]


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
    instead of the hub; world: dials of the embedded task, numbers: those of gsm8k_numbers; max_samples: rows to prepare.
    answers: the data set's (published) or the teacher's own, decoded with CAD at answers_threshold,
    answers_temperature, answers_block_length and answers_cache (dual: 1.6 times faster and not quite the answers of none);
    keep: of the teacher's answers all, or the right ones.
    """

    dataset: Literal["gsm8k", "opencode", "bs17k", "tiny", "gsm8k_numbers"]
    dir: str
    world: World = field(default_factory=World)
    numbers: NumbersWorld = field(default_factory=NumbersWorld)
    source: str | None = None
    max_samples: Count | None = None
    answers: Literal["data", "teacher"] = "data"
    answers_threshold: Probability = 0.95
    answers_temperature: NotNegative = 0.0
    answers_block_length: Count = 32
    answers_cache: Literal["none", "prefix", "dual"] = "none"
    keep: Literal["all", "right"] = "right"

    @property
    def dials(self) -> World | NumbersWorld | None:
        """The settings from which the rows are generated, None for rows that are read."""
        return {"tiny": self.world, "gsm8k_numbers": self.numbers}.get(self.dataset)


@dataclass(frozen=True, config=STRICT)
class BlockCausalConfig:
    """The student's attention: its own block both ways and what comes before; null in an experiment is bidirectional.

    block_length: tokens per block; grid: blocks start where the answer starts, or count from position 0 (absolute).
    """

    block_length: Count = 32
    grid: Literal["answer", "absolute"] = "answer"


@dataclass(frozen=True, config=STRICT)
class TrajectoriesConfig:
    """How the teacher's paths from an all-mask answer are recorded: one token per step, block by block.

    dir: where; temperatures: each question is answered once at each of them, 0 is greedy; rows: questions of the train
    split, null = all; the canvas is format.answer_length, grid where its blocks start (see block_causal).
    metric: module with score(row, text), to keep right answers only; null keeps all. hidden: store the hidden state of
    every token too, which CDLM's distillation alone needs and which is nearly all of the disk space; dtype: of these. shard_rows: trajectories per file, the unit of resuming. skip_broken_shards: train on the rest where a file
    is damaged, instead of stopping.
    """

    dir: str
    temperatures: Annotated[tuple[NotNegative, ...], Field(min_length=1)] = (0.0, 0.5)
    block_length: Count = 32
    grid: Literal["answer", "absolute"] = "answer"
    rows: Count | None = None
    metric: str | None = None
    hidden: bool = True
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    batch_size: Count = 32
    shard_rows: Count = 256
    seed: int = 42
    skip_broken_shards: bool = False


@dataclass(frozen=True, config=STRICT)
class TrainConfig:
    """Optimization. epochs or max_steps (which wins) end a run; patience counts evaluations without a better loss.

    launch: an accelerate config file for several GPUs, null for one process. deepspeed settings live in that file.
    global_batch: rows of one optimizer step over all processes; null = batch_size x accumulation x the processes of
        the launch file. It never changes with NUM_PROCESSES: processes share the rows, in micro-batches of at most
        batch_size. shard_teacher: spread the frozen teacher over the processes.
    betas: AdamW's two. clip: largest norm of the gradient, .inf never clips. teacher_dtype: of a separate teacher's weights; auto is
    bfloat16 under bf16, else float32. compile: torch.compile on the blocks. group_by_length: micro-batches of rows of
    similar length. optimizer: adamw_8bit needs bitsandbytes.
    """

    epochs: Positive = 10
    max_steps: Count | None = None
    learning_rate: Positive = 5e-6
    schedule: Literal["constant_with_warmup", "linear", "cosine"] = "constant_with_warmup"
    warmup_steps: Annotated[int, Field(ge=0)] = 200
    weight_decay: NotNegative = 0.01
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
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
    head lie outside the blocks and can never match. The update is alpha / rank times B A. dropout: share of an adapter's
    input that is dropped while the student learns; its places depend on batch size and processes.
    """

    rank: Count = 16
    alpha: Positive = 32.0
    dropout: Fraction = 0.0
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
    """The grid of decoders that the report compares, on held-out problems.

    split: `test` for the report, for gsm8k_numbers `numbers` or `questions`; `validation` to choose settings. Results of
    any but `test` go to a folder of that name.
    fixed_steps: budgets of FixedSteps; thresholds: of CAD; headline: the threshold of the report's first sentence,
    null = each model's own, chosen on the first `validation_problems` of the validation split: of the thresholds that are
    as accurate there as the teacher at one token per step, less the margin, the one with the fewest forward passes.
    decoders: further ones, each the options (cd4lm.decoding.options) in which it differs from this section.
    margin: accuracy may fall this far under the teacher at one token per step and still count as equal.
    dtype: of the weights while decoding; auto is bfloat16 on a GPU, else float32. bfloat16 is faster where the processor has it.
    """

    split: Literal["test", "validation", "numbers", "questions"] = "test"
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
    margin: Fraction = 0.01
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
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
    keeps that of the checkpoint it starts from. cdlm, dparallel, d3llm, tad: the objective, at most one of them; with
    none it is dscd. ON_PATHS need trajectories.
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
    dparallel: DParallelConfig | None = None
    d3llm: D3LLMConfig | None = None
    tad: TADConfig | None = None

    def __post_init__(self):
        taken = {"teacher", "student", "checkpoints", "cells", "validation", "numbers", "questions", "tensorboard"}
        for name in self.also:
            require(name not in taken and "/" not in name, f"also.{name}: choose another name, this one is taken")
        require(len(self.asked) <= 1, f"{' and '.join(self.asked)} are several objectives: set all but one to null")
        if self.on_paths:
            self._check_paths()
        if self.block_causal is not None:
            self.check_blocks("block_causal.", self.block_causal.block_length, self.block_causal.grid)

    def _check_paths(self) -> None:
        name, paths = self.objective, self.trajectories
        require(paths is not None, f"{name} needs recorded trajectories: add a `trajectories` section")
        grouped = self.train.group_by_length
        require(not grouped, "group_by_length has no effect on trajectories, which have one length: leave it out")
        stored = self.cdlm is None or self.cdlm.distillation == 0 or paths.hidden
        require(stored, "cdlm.distillation needs the stored hidden states: set trajectories.hidden=true")
        raw = self.tad is not None and self.format.prompt_template is not None
        require(
            not raw, "tad shows the teacher a system message: set format.prompt_template=null for the chat template"
        )

    def check_blocks(self, whose: str, block_length: int, grid: str) -> None:
        """Raise ValueError unless a block-causal student of these blocks is trained on them, as far as it trains on any."""
        if self.objective in ("cdlm", "tad"):
            trained = {"trajectories.block_length": self.trajectories.block_length}
            trained |= {"trajectories.grid": self.trajectories.grid}
        elif self.objective == "d3llm":
            trained = {"the last of d3llm.block_lengths": self.d3llm.block_lengths[-1]}
        else:
            trained = {} if self.dparallel is None else {"dparallel.block_length": self.dparallel.block_length}
        for name, theirs in trained.items():
            kind, ours = ("grid", grid) if name.endswith("grid") else ("block_length", block_length)
            require(
                ours == theirs,
                f"{whose}{kind}={ours} but {name}={theirs}: a student must be trained on the blocks that it decodes",
            )

    @property
    def asked(self) -> list[str]:
        """Sections of objectives other than DSCD's, which needs none."""
        return [name for name in OBJECTIVES if name != "dscd" and vars(self)[name] is not None]

    @property
    def objective(self) -> str:
        """The section of the objective."""
        return self.asked[0] if self.asked else "dscd"

    @property
    def on_paths(self) -> bool:
        return self.objective in ON_PATHS

    @property
    def results_dir(self) -> str:
        """Where measurements go: of the test split beside the student, of others in folders of their own."""
        apart = self.evaluate is not None and self.evaluate.split != "test"
        return f"{self.output_dir}/{self.evaluate.split}" if apart else self.output_dir
