"""What CAD makes of the student while it is trained: accuracy and NFE on a few validation problems."""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from tqdm import tqdm
from transformers.integrations import is_deepspeed_zero3_enabled

from cd4lm.config import require
from cd4lm.data.examples import encode_prompt, end_ids
from cd4lm.decoding import Decoder, DecodingOptions, generate
from cd4lm.settings import CADEvalConfig, FormatConfig


def score_of(module: str, setting: str = "cad_eval.metric") -> Callable[[dict, str], bool]:
    """The `score` function of a metric that a setting of a config names. Raises ValueError if there is none."""
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise ValueError(f"{setting}={module} cannot be imported ({error}): name a module with score()") from None
    require("score" in vars(found), f"{setting}={module} has no function score(row, response): name one that has")
    return found.score


def ranking(accuracy: float, nfe: float, gen_length: int, problems: int) -> float:
    """What the best checkpoint has most of: one more right answer outweighs any saving of NFE, among equals fewer win.

    accuracy: share of right answers; nfe: mean per answer, at most gen_length.
    """
    return accuracy - nfe / ((gen_length + 1) * problems)


def decoder_of(config: CADEvalConfig, form: FormatConfig, model_config, tokenizer) -> Decoder:
    """What answers are decoded with. Raises ValueError for what cannot be decoded."""
    base = DecodingOptions(
        gen_length=form.answer_length, block_length=config.block_length, eos_threshold_ratio=config.eos_hold_ratio
    )
    options = config.decoder or DecodingOptions(confidence_threshold=config.threshold)
    return options.completed(base).decoder(model_config, end_ids(tokenizer))


@dataclass(frozen=True)
class CADEvaluator:
    """Rows to answer and how to decode and score them; row["answer"] is what the metric compares with."""

    rows: Sequence[dict]
    tokenizer: object
    form: FormatConfig
    config: CADEvalConfig
    is_right: Callable[[dict, str], bool]

    def measure(self, trainer) -> dict[str, float]:
        """Means over the rows as the Trainer's metrics; each process decodes its share unless weights are sharded.

        Processes that share sharded weights must run the same forwards, so there each decodes every row.
        """
        sharded = trainer.is_fsdp_enabled or is_deepspeed_zero3_enabled()
        model = trainer.model_wrapped if trainer.is_fsdp_enabled else trainer.model
        rank, world = (0, 1) if sharded else (trainer.args.process_index, trainer.args.world_size)
        was_training = model.training
        model.eval()
        quiet = trainer.args.disable_tqdm or not trainer.is_world_process_zero()
        sums = self.decode(model, self.rows[rank::world], quiet).to(trainer.args.device)
        model.train(was_training)
        if not sharded:
            sums = trainer.accelerator.reduce(sums, "sum")
        right, nfe, tokens = (sums / len(self.rows)).tolist()
        return {
            "eval_cad_accuracy": right,
            "eval_cad_nfe": nfe,
            "eval_cad_tokens_per_forward": tokens / nfe,
            "eval_cad_score": ranking(right, nfe, self.form.answer_length, len(self.rows)),
        }

    def decode(self, model, rows: Sequence[dict], quiet: bool) -> torch.Tensor:
        """Sums over rows of right answers, forward passes and tokens before EOS: (3,) float64."""
        decoder = decoder_of(self.config, self.form, model.config, self.tokenizer)
        prompts = [
            torch.tensor(encode_prompt(self.tokenizer, row["question"], self.form.prompt_template)) for row in rows
        ]
        sums = torch.zeros(3, dtype=torch.float64)
        with tqdm(total=len(rows), desc="CAD on validation", unit="problem", leave=False, disable=quiet) as bar:
            for g in generate(model, self.tokenizer, prompts, decoder, batch_size=self.config.batch_size):
                sums += torch.tensor([self.is_right(rows[g.index], g.text), g.nfe, len(g.tokens)])
                bar.update()
        return sums
