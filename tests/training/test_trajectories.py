"""Recorded paths: what is stored is what the decoding did, and a collection goes on where it stopped."""

import dataclasses

import pytest
import torch
from safetensors.torch import load_file

from cd4lm.config import ConfigError
from cd4lm.data.trajectories import TrajectoryDataset, is_complete, read_manifest, shard_file
from cd4lm.model.loading import load_model
from cd4lm.training import collect_trajectories
from cd4lm.training.collect_trajectories import collect
from cd4lm.training.train import build_trainer
from tests.conftest import BACKBONES
from tests.training.worlds import ROWS, cdlm_config, write_teacher_and_data

G, BLOCK = 40, 8


@pytest.fixture(scope="module", params=list(BACKBONES))
def world(request, tmp_path_factory):
    """A folder with teacher, data and collected paths; 22 questions at two temperatures in shards of 10."""
    folder = tmp_path_factory.mktemp(request.param)
    write_teacher_and_data(folder, request.param)
    collect(cdlm_config(folder, "run"))
    return folder


def shards(folder):
    return [load_file(shard_file(folder / "paths", i)) for i in range(read_manifest(folder / "paths")["shards"])]


def test_a_path_commits_one_token_per_step_block_by_block(world):
    found = shards(world)
    assert [len(s["row"]) for s in found] == [10, 10, 10, 10, 4]
    both = [(r, t) for s in found for r, t in zip(s["row"].tolist(), s["temperature"].tolist(), strict=True)]
    assert sorted(both) == sorted((row, t) for row in range(ROWS) for t in (0.0, 0.5))
    for shard in found:
        order = shard["order"].long()
        assert torch.equal(order.sort(dim=1).values, torch.arange(G).expand_as(order))
        assert torch.equal(order // BLOCK, (torch.arange(G) // BLOCK).expand_as(order))


def test_the_head_gives_the_real_logits_from_a_stored_state(world):
    model = load_model(world / "teacher", dtype=torch.float32).eval()
    mask = model.config.mask_token_id
    shard = shards(world)[1]
    for i in range(3):
        prompt = shard["prompt"][i][: shard["prompt_length"][i]].long()
        tokens, order = shard["tokens"][i].long(), shard["order"][i]
        for place in (0, 11, G - 1):
            before = torch.where(order < order[place], tokens, mask)  # the state in which the token was committed
            with torch.no_grad():
                logits = model(torch.cat((prompt, before))[None]).logits[0, len(prompt) + place]
                rebuilt = model.head(shard["hidden"][i, place])
            torch.testing.assert_close(rebuilt, logits, atol=1e-4, rtol=1e-4)
            if shard["temperature"][i] == 0:
                assert rebuilt.index_fill(0, torch.tensor([mask]), -torch.inf).argmax() == tokens[place]


def test_greedy_and_sampled_paths_differ(world):
    answers = {}
    for shard in shards(world):
        for row, t, tokens in zip(shard["row"].tolist(), shard["temperature"].tolist(), shard["tokens"], strict=True):
            answers[row, t] = tokens
    assert any(not torch.equal(answers[row, 0.0], answers[row, 0.5]) for row in range(ROWS))


def test_a_collection_goes_on_and_is_the_same(world, capsys):
    before = [shard_file(world / "paths", i).read_bytes() for i in range(5)]
    for i in (1, 4):
        shard_file(world / "paths", i).unlink()
    assert not is_complete(world / "paths")
    kept = shard_file(world / "paths", 0).stat().st_mtime_ns
    collect(cdlm_config(world, "run"))
    assert is_complete(world / "paths") and shard_file(world / "paths", 0).stat().st_mtime_ns == kept
    assert before == [shard_file(world / "paths", i).read_bytes() for i in range(5)]
    assert "44 paths of 40 steps, 0.00 GB" in capsys.readouterr().out


def test_going_on_with_other_settings_is_refused(world):
    config = cdlm_config(world, "run")
    other = dataclasses.replace(config, trajectories=dataclasses.replace(config.trajectories, temperatures=(0.0,)))
    with pytest.raises(ValueError, match=r"temperatures is \[0.0, 0.5\], not \[0.0\]"):
        collect(other)


def test_training_refuses_paths_of_another_teacher_or_tokenizer(world, tmp_path):
    write_teacher_and_data(tmp_path, "llada")
    model = load_model(tmp_path / "teacher", dtype=torch.float32)
    model.get_output_embeddings().weight.data += 0.5
    model.save_pretrained(tmp_path / "teacher")
    config = cdlm_config(world, "run")
    with pytest.raises(ValueError, match="paths was collected otherwise: teacher is"):
        build_trainer(dataclasses.replace(config, teacher=str(tmp_path / "teacher")), tmp_path / "out")
    file = world / "teacher/tokenizer_config.json"
    text = file.read_text()
    try:
        template = world / "teacher/chat_template.jinja"
        changed, was = (template, template.read_text()) if template.is_file() else (file, text)
        changed.write_text(was.replace("assistant", "system"))
        with pytest.raises(ValueError, match="tokenizer is"):
            build_trainer(config, tmp_path / "out")
    finally:
        changed.write_text(was)


def test_a_truncated_shard_is_named_and_the_rest_usable(world, capsys):
    file = shard_file(world / "paths", 2)
    whole = file.read_bytes()
    truth = {row: [1, 2] for row in range(ROWS)}
    try:
        file.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ValueError, match="shard-00002.safetensors is damaged or missing"):
            TrajectoryDataset(world / "paths", truth, held_out=False, skip_broken=False)
        rest = TrajectoryDataset(world / "paths", truth, held_out=False, skip_broken=True)
        assert "shard-00002" in capsys.readouterr().err and 0 < len(rest) < 42
    finally:
        file.write_bytes(whole)


def test_held_out_paths_are_of_other_questions(world):
    truth = {row: [1, 2] for row in range(ROWS)}
    parts = [TrajectoryDataset(world / "paths", truth, held_out=h, skip_broken=False) for h in (False, True)]
    prompts = [{tuple(part[i]["prompt"]) for i in range(len(part))} for part in parts]
    assert [len(part) for part in parts] == [40, 4] and not prompts[0] & prompts[1]


def test_blocks_that_do_not_fit_are_refused(world):
    with pytest.raises(ConfigError, match="block_causal.block_length=4 but trajectories.block_length=8"):
        cdlm_config(world, "run", changes={"block_causal": {"block_length": 4}})


def test_what_is_missing_is_said_before_the_weights_are_read(tmp_path, monkeypatch):
    write_teacher_and_data(tmp_path)
    monkeypatch.setattr(collect_trajectories, "load_for_inference", lambda *_: pytest.fail("the weights were read"))
    (tmp_path / "data/train.jsonl").unlink()
    with pytest.raises(ValueError, match="train.jsonl does not exist: run scripts/prepare_data.py"):
        collect(cdlm_config(tmp_path, "run"))
