"""Train a masked diffusion teacher from nothing on problems made on the fly: the recipe of checkpoints/tiny_teacher.

    python -m cd4lm.training.pretrain configs/tiny_teacher.yaml [key=value ...]

Run the same command again to resume from the last checkpoint.
"""

import random
from dataclasses import asdict, field
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch.utils.data import Dataset
from transformers import TrainingArguments

from cd4lm.config import STRICT, Count, Positive, Share, command_line, dump, exit_with_message, load, require
from cd4lm.data import gsm8k_numbers, tiny_task, tiny_tokenizer
from cd4lm.data.examples import AnswerCollator, encode_answer, encode_prompt
from cd4lm.data.gsm8k_numbers import NumbersWorld
from cd4lm.data.tiny_task import World
from cd4lm.decoding.options import DecodingOptions
from cd4lm.diffusion.losses import masked_diffusion_loss
from cd4lm.diffusion.masking import block_state_masks, uniform_count_masks
from cd4lm.diffusion.noise import row_keys, uniform
from cd4lm.model import LLaDAConfig, LLaDAModelLM
from cd4lm.model.loading import load_tokenizer
from cd4lm.settings import CADEvalConfig, FormatConfig
from cd4lm.training.cad_eval import CADEvaluator, score_of
from cd4lm.training.optimizer import MuonAdamW
from cd4lm.training.resume import KEPT_CHECKPOINTS, check_output, check_resume, last_checkpoint, run_bytes
from cd4lm.training.trainer import RunTrainer


@dataclass(frozen=True, config=STRICT)
class ShapeConfig:
    """Size of the model."""

    d_model: Count
    n_heads: Count
    n_layers: Count
    mlp_hidden_size: Count
    max_sequence_length: Count = 256


@dataclass(frozen=True, config=STRICT)
class PretrainConfig:
    """One pretraining run; block_share of the rows are masked as block-wise decoding would leave them.

    world: the dials of the embedded task. numbers: those of GSM8K's questions with new numbers, null trains on the
    embedded task. sums_share: rows of bare arithmetic, of which
    only results are masked. result_share: rows of which one result is masked, wherever the answer says it. init_from: checkpoint whose weights to start from, null for random ones; one of another vocabulary gives
    its blocks and the words that both know. embedding_std: standard deviation of random word embeddings, null = the
    model's init_std; large ones with small rates are what a small model learns to copy with. seed: of weights, problems
    and masks. block_length: what the checkpoint's generation settings recommend for decoding. bf16: products in bfloat16, weights in float32; faster where the processor
    has it.
    group_by_length: rows of a step are of similar length, less padding. workers: processes that make rows. cad_eval: decode fresh problems of the validation
    split every `eval_every` steps: the learning curve, in the log; null leaves it out.
    """

    output_dir: str
    shape: ShapeConfig
    format: FormatConfig
    steps: Count
    world: World = field(default_factory=World)
    numbers: NumbersWorld | None = None
    sums_share: Share = 0.0
    result_share: Share = 0.0
    init_from: str | None = None
    embedding_std: Positive | None = None
    batch_size: Count = 64
    muon_lr: Positive = 0.02
    adamw_lr: Positive = 0.003
    warmup_steps: Annotated[int, Field(ge=0)] = 100
    block_share: Share = 0.6
    block_lengths: tuple[Count, ...] = (10, 20, 40)
    block_length: Count = 20
    save_every: Count = 500
    eval_every: Count = 500
    cad_eval: CADEvalConfig | None = None
    seed: int = 0
    compile: bool = False
    bf16: bool = False
    group_by_length: bool = False
    workers: Annotated[int, Field(ge=0)] = 0

    def __post_init__(self):
        require(self.steps > self.warmup_steps, f"steps={self.steps} must exceed warmup_steps={self.warmup_steps}")
        asks = self.sums_share + self.result_share
        require(
            not asks or self.numbers is not None, "sums_share and result_share need numbers: the embedded task has none"
        )
        require(asks <= 1, f"sums_share + result_share = {asks:g}: at most 1")
        fresh = self.init_from is None or self.embedding_std is None
        require(fresh, "embedding_std is for random weights: omit init_from")


class FreshProblems(Dataset):
    """Problems of a split made as they are asked for, one per index, the same for the same index."""

    def __init__(self, config: PretrainConfig, tokenizer, split: str, problems: int):
        self.config, self.tokenizer, self.split, self.problems = config, tokenizer, split, problems

    def __len__(self) -> int:
        return self.problems

    def kind(self, index: int) -> str:
        """What a row asks: sums, the results of one answer, or all of it."""
        if self.split != "train":
            return "all"
        chance = random.Random(f"{self.config.seed}/{index}").random()
        shares = {"sums": self.config.sums_share, "result": self.config.sums_share + self.config.result_share}
        return next((kind for kind, share in shares.items() if chance < share), "all")

    def row(self, index: int) -> dict:
        config = self.config
        if self.kind(index) == "sums":
            return gsm8k_numbers.make_sums(index, config.seed, config.numbers)
        task, world = (gsm8k_numbers, config.numbers) if config.numbers is not None else (tiny_task, config.world)
        return task.make_row(self.split, index, config.seed, world)

    def __getitem__(self, index: int) -> dict:
        row, form, kind = self.row(index), self.config.format, self.kind(index)
        example = {
            "example_id": index,
            "prompt": encode_prompt(self.tokenizer, row["question"], form.prompt_template),
            "answer": encode_answer(self.tokenizer, row["answer"], form),
        }
        if kind == "sums":
            example["asked"] = gsm8k_numbers.results_of(self.tokenizer, example["answer"])
        elif kind == "result":
            rng = random.Random(f"{self.config.seed}/result/{index}")
            example["asked"] = gsm8k_numbers.one_result_of(self.tokenizer, example["prompt"], example["answer"], rng)
        return example


def mixed_masks(answer: torch.Tensor, keys: torch.Tensor, block_share: float, block_lengths: tuple[int, ...]):
    """Masks of pretraining: uniform counts, or states of block-wise decoding with one of several block lengths.

    answer: bool (B, L), keys: (B,) int64. Returns bool (B, L) twice: what is masked, and where the loss is taken.
    """
    kind = uniform(row_keys(keys, 1), 1)[:, 0]  # (B,)
    masked = uniform_count_masks(answer, keys)
    scored = masked
    for i, length in enumerate(block_lengths):
        low, high = block_share * i / len(block_lengths), block_share * (i + 1) / len(block_lengths)
        chosen = ((kind >= low) & (kind < high))[:, None]
        block_masked, current = block_state_masks(answer, keys, length)
        masked, scored = torch.where(chosen, block_masked, masked), torch.where(chosen, current, scored)
    return masked, scored


class PretrainTrainer(RunTrainer):
    """The masked diffusion loss over fresh masks at every step."""

    def __init__(self, *args, config: PretrainConfig, **kwargs):
        super().__init__(*args, **kwargs)
        self.config = config
        # The loss is a mean over rows, so accumulation divides it as usual.
        self.model_accepts_loss_kwargs = False

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        x0, answer = inputs["input_ids"], inputs["answer"]
        keys = row_keys(inputs["example_id"], self.config.seed)
        masked, scored = mixed_masks(answer, keys, self.config.block_share, self.config.block_lengths)
        x = x0.masked_fill(masked, self.model.config.mask_token_id)
        if model.training:
            self.count("scored", scored.sum())
        logits = model(input_ids=x, attention_mask=inputs["attention_mask"], logits_at=scored).logits
        return masked_diffusion_loss(logits, x0, scored)


def build_model(config: PretrainConfig, tokenizer) -> LLaDAModelLM:
    """The model to train in float32: random weights of the shape asked for, or those of init_from."""
    torch.manual_seed(config.seed)
    before = None
    if config.init_from is not None:
        before = LLaDAModelLM.from_pretrained(config.init_from, dtype=torch.float32)
        words = load_tokenizer(config.init_from).get_vocab()
        if words == tokenizer.get_vocab():
            return before
    model_config = LLaDAConfig(
        **asdict(config.shape),
        vocab_size=len(tokenizer),
        mask_token_id=tokenizer.mask_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LLaDAModelLM(model_config)
    if config.embedding_std is not None:
        torch.nn.init.normal_(model.get_input_embeddings().weight, std=config.embedding_std)
    if before is not None:
        take_over(before, words, model, tokenizer.get_vocab())
    return model


@torch.no_grad()
def take_over(before: LLaDAModelLM, words: dict[str, int], model: LLaDAModelLM, vocabulary: dict[str, int]) -> None:
    """Give `model` the weights of one with other words: all but those of words that only `model` knows.

    A sign with blanks around it is the sign. Raises ValueError where the shapes differ.
    """
    same = {i: words.get(word, words.get(word.strip())) for word, i in vocabulary.items()}
    rows, ids = map(list, zip(*((i, old) for i, old in same.items() if old is not None), strict=True))
    old = before.state_dict()
    for name, weight in model.state_dict().items():
        if len(weight) == len(vocabulary) and weight.shape[1:] == old[name].shape[1:]:  # embedding and head
            weight[rows] = old[name][ids]
        else:
            require(
                weight.shape == old[name].shape, f"init_from has {name} of {tuple(old[name].shape)}: its shape is asked"
            )
            weight.copy_(old[name])


def build_trainer(config: PretrainConfig, tokenizer, output: Path) -> PretrainTrainer:
    """Model, fresh problems and Muon, ready to train."""
    model, evaluation = build_model(config, tokenizer), {"eval_strategy": "no"}
    data = {"train_dataset": FreshProblems(config, tokenizer, "train", config.steps * config.batch_size)}
    if config.cad_eval is not None:
        evaluation = {"eval_strategy": "steps", "eval_steps": config.eval_every}
        data["eval_dataset"] = held_out = FreshProblems(config, tokenizer, "validation", config.cad_eval.problems)
        rows = [held_out.row(i) for i in range(len(held_out))]
        score = score_of(config.cad_eval.metric)
        data["cad_eval"] = CADEvaluator(rows, tokenizer, config.format, config.cad_eval, score)
    arguments = TrainingArguments(
        output_dir=str(output / "checkpoints"),
        max_steps=config.steps,
        per_device_train_batch_size=config.batch_size,
        lr_scheduler_type="linear",
        warmup_steps=config.warmup_steps,
        logging_steps=50,
        save_steps=config.save_every,
        save_total_limit=KEPT_CHECKPOINTS,
        remove_unused_columns=False,
        report_to=[],
        logging_nan_inf_filter=False,
        seed=config.seed,
        torch_compile=config.compile,
        bf16=config.bf16,
        dataloader_num_workers=config.workers,
        **evaluation,
        use_cpu=not torch.cuda.is_available(),
    )
    return PretrainTrainer(
        model,
        arguments,
        config=config,
        folder=output,
        group_by_length=config.group_by_length,
        **data,
        data_collator=AnswerCollator(pad_id=tokenizer.pad_token_id),
        optimizers=(MuonAdamW(model, muon_lr=config.muon_lr, adamw_lr=config.adamw_lr), None),
    )


def pretrain(config: PretrainConfig) -> None:
    """Train, resuming if a checkpoint is there, and save the teacher in the released layout in bf16."""
    output = Path(config.output_dir)
    last = last_checkpoint(output / "checkpoints")
    if last:
        check_resume(config, output, free=("output_dir", "block_length", "cad_eval"))
    torch.set_flush_denormal(True)  # sharp attention leaves denormal gradients, which halve the speed of a CPU
    numbers = config.numbers
    tokenizer = tiny_tokenizer.build_tokenizer() if numbers is None else gsm8k_numbers.build_tokenizer(numbers)
    trainer = build_trainer(config, tokenizer, output)
    check_output(output, run_bytes(trainer.model.num_parameters()))
    dump(config, output / "config.yaml")
    trainer.train(resume_from_checkpoint=last)
    trainer.model.to(torch.bfloat16).save_pretrained(output)
    tokenizer.save_pretrained(output)
    DecodingOptions(gen_length=config.format.answer_length, block_length=config.block_length).save(output)


def main():
    pretrain(load(PretrainConfig, *command_line(__doc__)))


if __name__ == "__main__":
    exit_with_message(main)
