"""Recorded paths: what is stored is what the decoding did, and a collection goes on where it stopped."""

import copy
import dataclasses

import pytest
import torch
from safetensors.torch import load_file

from cd4lm.config import ConfigError
from cd4lm.data.examples import encode_prompt
from cd4lm.data.trajectories import TrajectoryDataset, is_complete, read_manifest, shard_file
from cd4lm.model.loading import load_model
from cd4lm.training import collect_trajectories, setup, train
from cd4lm.training.collect_trajectories import collect
from cd4lm.training.train import build_trainer
from tests.conftest import BACKBONES
from tests.training.worlds import CDLM, OBJECTIVES, ROWS, cdlm_config, objective_config, write_teacher_and_data

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


def test_paths_without_hidden_states_are_the_same_paths(world, capsys):
    """For d3LLM and TAD: a thousandth of the space at 8B; CDLM's distillation refuses them."""
    paths = CDLM["trajectories"] | {"dir": str(world / "bare"), "hidden": False}
    collect(cdlm_config(world, "bare", changes=OBJECTIVES["tad"] | {"trajectories": paths}))
    for i, whole in enumerate(shards(world)):
        bare = load_file(shard_file(world / "bare", i))
        assert bare.keys() == whole.keys() - {"hidden"} and all(torch.equal(bare[name], whole[name]) for name in bare)
    with pytest.raises(ConfigError, match="distillation needs the stored hidden states: set trajectories.hidden=true"):
        cdlm_config(world, "bare", changes={"trajectories": paths})
    with pytest.raises(ValueError, match="collected without hidden states"):
        build_trainer(cdlm_config(world, "bare", changes={"trajectories": paths | {"hidden": True}}), world / "out")
    with pytest.raises(ValueError, match="hidden is False, not True"):
        collect(cdlm_config(world, "bare", changes={"trajectories": paths | {"hidden": True}}))
    for objective in ("d3llm", "tad"):
        build_trainer(objective_config(world, "bare", objective, changes={"trajectories": paths}), world / "out")


def test_going_on_with_other_settings_is_refused(world, monkeypatch):
    monkeypatch.setattr(collect_trajectories, "load_for_inference", lambda *_: pytest.fail("the weights were read"))
    config = cdlm_config(world, "run")
    other = dataclasses.replace(config, trajectories=dataclasses.replace(config.trajectories, temperatures=(0.0,)))
    with pytest.raises(ValueError, match=r"temperatures is \[0.0, 0.5\], not \[0.0\]"):
        collect(other)


@pytest.mark.parametrize("part", ["head", "block"])
@pytest.mark.parametrize("objective", ["cdlm", "d3llm", "tad"])
def test_training_refuses_paths_of_another_teacher(world, tmp_path, objective, part):
    """Also of one whose head is the same, as a student's that was trained with adapters."""
    write_teacher_and_data(tmp_path, world.name.rstrip("0123456789"))
    model = load_model(tmp_path / "teacher", dtype=torch.float32)
    changed = model.get_output_embeddings().weight if part == "head" else next(model.blocks[-1].parameters())
    changed.data += 0.5
    model.save_pretrained(tmp_path / "teacher")
    config = objective_config(world, "run", objective)
    with pytest.raises(ValueError, match="paths was collected otherwise: teacher is") as caught:
        build_trainer(dataclasses.replace(config, teacher=str(tmp_path / "teacher")), tmp_path / "out")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("objective", ["cdlm", "d3llm", "tad"])
def test_paths_of_other_settings_are_refused_before_weights_are_read(world, tmp_path, monkeypatch, objective):
    for module in (train, setup):
        monkeypatch.setattr(module, "load_model", lambda *_, **__: pytest.fail("the weights were read"))
    own = CDLM["trajectories"] | {"dir": str(world / "paths")}
    blocks = {"block_causal": None, "trajectories": own | {"block_length": 4}}
    raw = {"format": {"prompt_template": "{question} ", "answer_length": 40, "max_length": 128}}
    canvas = {"format": {"answer_length": 32, "max_length": 128}}
    for changes, message in (
        (blocks, "block_length is 8, not 4"),
        (canvas, "gen_length is 40, not 32"),
        (raw, "prompt_template is None, not {question} "),
    ):
        if objective == "tad" and changes is raw:
            message = "tad shows the teacher a system message"
        with pytest.raises(ValueError, match=message) as caught:
            build_trainer(objective_config(world, "run", objective, changes=changes), tmp_path / "out")
        assert "\n" not in str(caught.value)


def test_training_refuses_paths_of_another_tokenizer(world, tmp_path):
    config = cdlm_config(world, "run")
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


def test_answers_that_leave_too_little_room_are_left_out_and_counted(world, capsys):
    def with_room(tokens: int | None) -> dict:
        return {"tad": {"max_length": tokens}}

    whole = build_trainer(objective_config(world, "run", "tad", changes=with_room(None)), world / "out").train_dataset
    capsys.readouterr()
    lengths = sorted(len(whole[i]["privileged"]) + G for i in range(len(whole)))
    middle = lengths[-1] - 1  # some question is held out and must stay
    some = build_trainer(objective_config(world, "run", "tad", changes=with_room(middle)), world / "out").train_dataset
    kept = [len(some[i]["privileged"]) + G for i in range(len(some))]
    assert max(kept) <= middle and sorted(kept) == [n for n in lengths if n <= middle] and len(kept) < len(whole)
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("tad: left out")]
    assert len(said) == 1 and f"of {ROWS} questions with their answer and 40 tokens of canvas" in said[0]
    for tokens, message in (
        (G + 5, f"{ROWS} of {ROWS} questions .* are longer than 45 tokens"),
        (999, "exceeds the 128"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            build_trainer(objective_config(world, "run", "tad", changes=with_room(tokens)), world / "out")
        assert "\n" not in str(caught.value)


def test_a_template_that_hides_system_messages_is_refused(tokenizer):
    tokenizer = copy.deepcopy(tokenizer)
    assert len(encode_prompt(tokenizer, "tom has 3", system="7 + 2")) > len(encode_prompt(tokenizer, "tom has 3"))
    tokenizer.chat_template = "{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}"
    with pytest.raises(ValueError, match="leaves system messages out"):
        encode_prompt(tokenizer, "tom has 3", system="7 + 2")


def test_blocks_that_do_not_fit_are_refused(world):
    with pytest.raises(ConfigError, match="block_causal.block_length=4 but trajectories.block_length=8"):
        cdlm_config(world, "run", changes={"block_causal": {"block_length": 4}})
    for objective, says in (("tad", "trajectories"), ("dparallel", "dparallel"), ("d3llm", "the last of d3llm")):
        with pytest.raises(ConfigError, match=f"block_causal.block_length=4 but {says}.block_length"):
            objective_config(world, "run", objective, changes={"block_causal": {"block_length": 4}})


def test_what_is_missing_is_said_before_the_weights_are_read(tmp_path, monkeypatch):
    write_teacher_and_data(tmp_path)
    monkeypatch.setattr(collect_trajectories, "load_for_inference", lambda *_: pytest.fail("the weights were read"))
    (tmp_path / "data/train.jsonl").unlink()
    with pytest.raises(ValueError, match="train.jsonl does not exist: run scripts/prepare_data.py"):
        collect(cdlm_config(tmp_path, "run"))
