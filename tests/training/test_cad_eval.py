"""CAD in the course of training: its numbers are the engine's, and the best checkpoint follows them."""

import pytest
import torch
from safetensors.torch import save_file
from transformers import TrainingArguments

from cd4lm.config import build
from cd4lm.data.examples import AnswerCollator, AnswerDataset, encode_prompt, end_ids
from cd4lm.data.tiny_task import make_row
from cd4lm.decoding import ConfidenceAdaptive, DecodeConfig, MultiBlock, decode
from cd4lm.model import LLaDAModelLM
from cd4lm.settings import CADEvalConfig, DSCDConfig, ExperimentConfig, FormatConfig
from cd4lm.training.cad_eval import CADEvaluator, decoder_of, ranking, score_of
from cd4lm.training.consistency_loss import DSCDTrainer
from cd4lm.training.train import build_trainer
from tests.conftest import ROOT
from tests.training.worlds import settings, write_teacher_and_data

TEACHER = ROOT / "checkpoints/tiny_teacher"
FORM = FormatConfig(answer_length=40, max_length=128)
ROWS = [make_row("validation", i) for i in range(12)]


def run(folder, tokenizer, student, **changes) -> DSCDTrainer:
    config = CADEvalConfig(problems=12, batch_size=5, threshold=0.9, block_length=20)
    settings = {"max_steps": 2, "per_device_train_batch_size": 4, "eval_strategy": "steps", "eval_steps": 1}
    settings |= {"save_steps": 1, "learning_rate": 1e-3, "report_to": [], "remove_unused_columns": False}
    settings |= {"label_names": [], "use_cpu": True, "disable_tqdm": True, "logging_steps": 1}
    return DSCDTrainer(
        student,
        TrainingArguments(output_dir=str(folder), **(settings | changes)),
        teacher=LLaDAModelLM.from_pretrained(TEACHER, dtype=torch.float32),
        dscd=DSCDConfig(),
        cad_eval=CADEvaluator(ROWS, tokenizer, FORM, config, score_of("cd4lm.data.tiny_task")),
        train_dataset=AnswerDataset(ROWS, tokenizer, FORM),
        eval_dataset=AnswerDataset(ROWS[:4], tokenizer, FORM),
        data_collator=AnswerCollator(tokenizer.pad_token_id),
    )


@pytest.fixture
def student():
    return LLaDAModelLM.from_pretrained(TEACHER, dtype=torch.float32)


def test_the_numbers_are_those_of_the_engine(tmp_path, tokenizer, student):
    found = run(tmp_path, tokenizer, student).evaluate()
    prompts = [torch.tensor(encode_prompt(tokenizer, row["question"])) for row in ROWS]
    config = DecodeConfig(student.config.mask_token_id, end_ids(tokenizer), gen_length=40, block_length=20)
    result = decode(student.eval(), prompts, ConfidenceAdaptive(threshold=0.9), config)
    score = score_of("cd4lm.data.tiny_task")
    texts = [tokenizer.decode(t[:n]) for t, n in zip(result.tokens, result.lengths.tolist(), strict=True)]
    right = sum(score(row, text) for row, text in zip(ROWS, texts, strict=True))
    assert found["eval_cad_accuracy"] == pytest.approx(right / 12) and right >= 8
    assert found["eval_cad_nfe"] == pytest.approx(result.nfe.double().mean().item())
    assert found["eval_cad_tokens_per_forward"] == pytest.approx((result.lengths.sum() / result.nfe.sum()).item())
    assert "eval_loss" in found


@pytest.mark.slow
def test_it_is_logged_as_a_curve_and_the_best_checkpoint_is_kept_by_it(tmp_path, tokenizer, student):
    # The first step has rate 0, the second ruins the student, so the first checkpoint is the best.
    best = {"load_best_model_at_end": True, "metric_for_best_model": "cad_score", "greater_is_better": True}
    trainer = run(
        tmp_path,
        tokenizer,
        student,
        **best,
        learning_rate=0.05,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=1,
    )
    trainer.train()
    curve = [entry["eval_cad_accuracy"] for entry in trainer.state.log_history if "eval_cad_accuracy" in entry]
    assert len(curve) == 2 and curve[0] > curve[1]
    assert trainer.state.best_global_step == 1
    assert trainer.cad_eval.measure(trainer)["eval_cad_accuracy"] == pytest.approx(curve[0])


def test_another_decoder_than_cad(tokenizer, student):
    """Named by its options, with canvas and blocks of the section unless it says otherwise."""
    config = build(CADEvalConfig, {"block_length": 20, "decoder": {"policy": "multi_block", "window": 2}}, "cad_eval.")
    decoder = decoder_of(config, FORM, student.config, tokenizer)
    assert decoder.policy == MultiBlock(window=2)
    assert (decoder.config.gen_length, decoder.config.block_length) == (40, 20)
    evaluator = CADEvaluator(ROWS[:4], tokenizer, FORM, config, score_of("cd4lm.data.tiny_task"))
    right, nfe, _ = evaluator.decode(student.eval(), ROWS[:4], quiet=True).tolist()
    prompts = [torch.tensor(encode_prompt(tokenizer, row["question"])) for row in ROWS[:4]]
    assert nfe == decode(student, prompts, MultiBlock(window=2), decoder.config).nfe.sum() and right >= 3


@pytest.mark.parametrize(
    "options,message",
    [
        ({"policy": "multi_block", "window": 3}, "window=3 is larger than the canvas"),
        ({"multi_block_threshold": -1}, "threshold=-1.0 must be 0 or above"),
        ({"confidence_threshold": 0.9, "cache": "block"}, "needs a block-causal checkpoint"),
    ],
)
def test_a_decoder_that_cannot_be_used_is_refused_before_the_weights_are_read(tmp_path, options, message):
    write_teacher_and_data(tmp_path)
    save_file({"nothing": torch.zeros(1)}, tmp_path / "teacher/model.safetensors")
    cad_eval = {"metric": "cd4lm.data.tiny_task", "problems": 4, "block_length": 20, "decoder": options}
    experiment = build(ExperimentConfig, settings(tmp_path, "run") | {"cad_eval": cad_eval})
    with pytest.raises(ValueError, match=message):
        build_trainer(experiment, tmp_path / "run")


def test_more_right_answers_win_and_among_equals_fewer_passes():
    assert ranking(9 / 12, 40, 40, 12) > ranking(8 / 12, 1, 40, 12)
    assert ranking(9 / 12, 10, 40, 12) > ranking(9 / 12, 11, 40, 12)


@pytest.mark.parametrize(
    "name,message", [("evaluation.metrics.none", "cannot be imported"), ("json", "no function score")]
)
def test_a_metric_that_is_not_there_is_named(name, message):
    with pytest.raises(ValueError, match=message):
        score_of(name)
