"""What is refused before training, and in which precision models are kept."""

import pytest
import torch

from cd4lm.config import build
from cd4lm.model import LLaDAConfig
from cd4lm.settings import ExperimentConfig, FormatConfig, TrainConfig
from cd4lm.training.fit import check_fit, check_packages
from cd4lm.training.setup import build_student, build_teacher, compile_blocks
from tests.conftest import ROOT, random_model
from tests.training.test_trainer import losses, trainer

TEACHER = ROOT / "checkpoints/tiny_teacher"


def experiment(**sections) -> ExperimentConfig:
    return build(
        ExperimentConfig,
        {"teacher": str(TEACHER), "output_dir": "o", "data": {"dataset": "tiny", "dir": "d"}, **sections},
    )


@pytest.mark.parametrize(
    "change,message",
    [
        ({"vocab_size": 50, "embedding_size": 50}, "the tokenizer has .* tokens, the model 50"),
        ({"mask_token_id": 5}, "mask_token_id=5 is .* in the tokenizer, whose mask token is '<|mdm_mask|>'"),
        ({"mask_token_id": 100_000}, "mask_token_id=100000 is None in the tokenizer"),
        ({"eos_token_id": 7}, "EOS is 7 for the model"),
        ({"max_sequence_length": 64}, "format.max_length=128 exceeds the 64 positions"),
    ],
)
def test_a_tokenizer_that_does_not_fit_is_refused(tokenizer, change, message):
    config = LLaDAConfig.from_pretrained(TEACHER)
    check_fit(config, tokenizer, FormatConfig(max_length=128), "t")
    changed = LLaDAConfig(**(config.to_diff_dict() | change))
    with pytest.raises(ValueError, match=message.replace("|", r"\|")) as caught:
        check_fit(changed, tokenizer, FormatConfig(max_length=128), "t")
    assert "\n" not in str(caught.value)


def test_an_end_of_turn_that_the_tokenizer_lacks_is_refused_before_weights_are_read(tokenizer, monkeypatch):
    """Its own EOS stays; only the ending that the format asks for is missing."""
    config, form = LLaDAConfig.from_pretrained(TEACHER), FormatConfig(max_length=128, end="turn")
    check_fit(config, tokenizer, form, "t")
    monkeypatch.setattr("cd4lm.data.examples.TURNS", ("<|another|>",))
    with pytest.raises(ValueError, match="format.end=turn needs") as caught:
        check_fit(config, tokenizer, form, "t")
    assert "\n" not in str(caught.value)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    check_packages(experiment())
    for sections, package in (({"lora": {}}, "peft"), ({"train": {"optimizer": "adamw_8bit"}}, "bitsandbytes")):
        with pytest.raises(ValueError, match=f"needs the package {package}"):
            check_packages(experiment(**sections))


def dtypes(model) -> set[torch.dtype]:
    return {p.dtype for p in model.parameters()}


def test_precision_of_student_and_teacher():
    plain, kept = experiment(train={"bf16": True}), experiment(train={"bf16": True, "teacher_dtype": "float32"})
    assert dtypes(build_teacher(plain)) == {torch.bfloat16} and dtypes(build_teacher(kept)) == {torch.float32}
    assert dtypes(build_student(plain, masters_elsewhere=False)) == {torch.float32}
    assert dtypes(build_student(plain, masters_elsewhere=True)) == {torch.bfloat16}
    adapted = experiment(train={"bf16": True}, lora={"rank": 2})
    assert build_teacher(adapted) is None
    student = build_student(adapted, masters_elsewhere=False)
    assert {p.dtype for p in student.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in student.parameters() if not p.requires_grad} == {torch.bfloat16}


def test_lora_refuses_a_launch_that_shards_weights(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match="DDP or ZeRO-2"):
        build_student(experiment(lora={}), masters_elsewhere=False)


@pytest.mark.slow
def test_compiled_blocks_train_to_the_same_losses_and_save_the_same_names(tmp_path):
    plain, compiled = (random_model() for _ in range(2))
    compile_blocks(compiled, TrainConfig(compile=True))
    assert set(compiled.state_dict()) == set(plain.state_dict())
    runs = [trainer(tmp_path / str(i), model=model, max_steps=3) for i, model in enumerate((plain, compiled))]
    for run in runs:
        run.train()
    assert losses(runs[1]) == pytest.approx(losses(runs[0]), abs=1e-4)
