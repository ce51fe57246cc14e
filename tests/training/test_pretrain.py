"""The pretraining recipe: its masks, and a run that learns and resumes."""

import os
import signal
import sys
import time
from dataclasses import replace
from subprocess import DEVNULL, PIPE, Popen

import pytest
import torch
from safetensors.torch import load_file

from cd4lm.config import build, dump
from cd4lm.data import gsm8k_numbers
from cd4lm.data.gsm8k_numbers import NumbersWorld
from cd4lm.data.rows import read_jsonl
from cd4lm.data.tiny_tokenizer import build_tokenizer
from cd4lm.diffusion.noise import row_keys
from cd4lm.model import LLaDAModelLM
from cd4lm.settings import CADEvalConfig
from cd4lm.training.pretrain import PretrainConfig, build_model, mixed_masks, pretrain


def settings(folder, steps: int) -> PretrainConfig:
    return build(
        PretrainConfig,
        {
            "output_dir": str(folder),
            "steps": steps,
            "batch_size": 8,
            "warmup_steps": 1,
            "save_every": 2,
            "shape": {"d_model": 32, "n_heads": 2, "n_layers": 1, "mlp_hidden_size": 32},
            "format": {"answer_length": 40, "max_length": 128},
        },
    )


def test_the_loss_is_taken_where_it_was_masked():
    answer = torch.zeros(500, 50, dtype=torch.bool)
    answer[:, 8:48] = True
    masked, scored = mixed_masks(answer, row_keys(torch.arange(500)), 0.6, (10, 20))
    assert not (scored & ~masked).any() and not (masked & ~answer).any()
    assert (scored.sum(1) > 0).all()
    whole = (masked == scored).all(dim=1).float().mean()
    assert 0.4 < whole < 0.75  # all uniform rows, and the block rows in their last block


def test_a_run_writes_a_checkpoint_in_the_released_layout(tmp_path):
    pretrain(settings(tmp_path, 3))
    model = LLaDAModelLM.from_pretrained(tmp_path)
    assert model.config.vocab_size == len(build_tokenizer())
    assert (tmp_path / "tokenizer.json").is_file() and (tmp_path / "generation_config.json").is_file()


def test_rows_made_by_other_processes_are_the_same_rows(tmp_path):
    for name, workers in (("one", 0), ("three", 2)):
        pretrain(replace(settings(tmp_path / name, 3), workers=workers))
    one, three = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "three"))
    assert all(torch.equal(one[name], three[name]) for name in one)


def test_a_signal_to_the_whole_group_saves_a_checkpoint(tmp_path):
    """As `timeout` and job schedulers send it: the processes that make rows get it too."""
    dump(replace(settings(tmp_path / "run", 10_000), workers=2), tmp_path / "config.yaml")
    command = [sys.executable, "-m", "cd4lm.training.pretrain", str(tmp_path / "config.yaml")]
    with Popen(command, stderr=PIPE, stdout=DEVNULL, text=True, start_new_session=True) as process:
        while not list(tmp_path.glob("run/checkpoints/checkpoint-2/trainer_state.json")):
            assert process.poll() is None
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGTERM)
        said = process.stderr.read()
    assert process.returncode == 143 and "stopped by SIGTERM: checkpoint of step" in said.splitlines()[-1]
    assert "Traceback" not in said


def test_the_learning_curve_is_in_the_log_and_moves_no_weight(tmp_path):
    plain = settings(tmp_path / "plain", 4)
    curve = CADEvalConfig(problems=3, block_length=20, batch_size=3)
    watched = replace(plain, output_dir=str(tmp_path / "watched"), cad_eval=curve, eval_every=2)
    for config in (plain, watched):
        pretrain(config)
    log = read_jsonl(tmp_path / "watched" / "training_log.jsonl")
    assert [line["step"] for line in log if "eval_cad_accuracy" in line] == [2, 4]
    assert all(line["eval_loss"] > 0 for line in log if "eval_loss" in line)
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("plain", "watched")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_model_goes_on_with_other_words(tmp_path):
    """Blocks and the rows of common words are taken over, signs by what they are without blanks; new words are random."""
    pretrain(settings(tmp_path / "before", 2))
    numbers = NumbersWorld(templates=80, largest=60, steps=(2, 3), tokens="numbers")
    config = replace(settings(tmp_path, 2), numbers=numbers, init_from=str(tmp_path / "before"))
    tokenizer = gsm8k_numbers.build_tokenizer(numbers)
    old, new = (
        LLaDAModelLM.from_pretrained(tmp_path / "before").state_dict(),
        build_model(config, tokenizer).state_dict(),
    )
    words, vocabulary = build_tokenizer().get_vocab(), tokenizer.get_vocab()
    embedding, head = "model.transformer.wte.weight", "model.transformer.ff_out.weight"
    assert all(torch.equal(new[name], old[name].float()) for name in new if name not in (embedding, head))
    for name in (embedding, head):
        for word, known in (("17", "17"), (" + ", "+"), ("how", "how"), (tokenizer.mask_token, tokenizer.mask_token)):
            assert torch.equal(new[name][vocabulary[word]], old[name][words[known]].float())
    with pytest.raises(ValueError, match="its shape is asked"):
        build_model(replace(config, shape=replace(config.shape, n_heads=4, d_model=64)), tokenizer)


def test_word_embeddings_are_drawn_as_wide_as_asked(tmp_path):
    """Only they: every other weight is the one of the same seed, and weights that are taken over are left alone."""
    plain = settings(tmp_path, 2)
    tokenizer = build_tokenizer()
    before, after = (
        build_model(config, tokenizer).state_dict() for config in (plain, replace(plain, embedding_std=0.5))
    )
    embedding = "model.transformer.wte.weight"
    assert before[embedding].std().item() == pytest.approx(0.02, rel=0.1)
    assert after[embedding].std().item() == pytest.approx(0.5, rel=0.1)
    assert all(torch.equal(before[name], after[name]) for name in before if name != embedding)
    with pytest.raises(ValueError, match="omit init_from"):
        replace(plain, embedding_std=0.5, init_from="checkpoints/tiny_teacher")
