"""The answer log survives a kill at any byte, and refuses what does not belong to it."""

import copy
import json
import os
import pickle

import pytest

from evaluation.dllm_eval.answers import AnswerLog, Cost, Response
from evaluation.dllm_eval.run import check_same_run

KEYS = [("gsm8k", i, 0, 0) for i in range(3)]


def filled(folder, rank=0) -> AnswerLog:
    log = AnswerLog(folder, rank)
    for i, key in enumerate(KEYS):
        log.put(key, f"hash{i}", Response(f"answer {i}\n\u2028", Cost(nfe=i, tokens=2, seconds=0.5)))
    log.file.close()
    return log


class TestAnswerLog:
    def test_what_is_written_is_read_again(self, tmp_path):
        log = AnswerLog(tmp_path, 0)
        log.put(("choice", 0, 1, 0), "hash", (-2.5, True))
        log.file.close()
        log = filled(tmp_path)
        again = AnswerLog(tmp_path, 0)
        assert again.answers == log.answers and again.resumed == 4 and again.session == 2
        assert [answer.cost for _, answer in again.answers.values() if isinstance(answer, Response)] == [
            Cost(nfe=i, tokens=2, seconds=0.5) for i in range(3)
        ]

    def test_reading_a_whole_log_leaves_it_as_it_is(self, tmp_path):
        filled(tmp_path)
        file = tmp_path / "answers.0.jsonl"
        os.utime(file, ns=(0, 0))
        AnswerLog(tmp_path, 0).file.close()
        assert file.stat().st_mtime_ns == 0

    def test_a_kill_at_any_byte_loses_at_most_the_last_answer(self, tmp_path):
        filled(tmp_path)
        whole = (tmp_path / "answers.0.jsonl").read_bytes()
        ends = [i + 1 for i, byte in enumerate(whole) if byte == 10]
        for cut in range(len(whole)):
            (tmp_path / "answers.0.jsonl").write_bytes(whole[:cut])
            log = AnswerLog(tmp_path, 0)
            kept = sum(end <= cut for end in ends)
            assert log.resumed == kept
            for i in range(kept, 3):
                log.put(KEYS[i], f"hash{i}", Response("again", Cost()))
            log.file.close()
            again = AnswerLog(tmp_path, 0)
            assert again.resumed == 3
            again.file.close()

    def test_other_processes_answers_are_read_and_their_torn_line_is_left(self, tmp_path):
        filled(tmp_path, rank=1)
        with open(tmp_path / "answers.1.jsonl", "a") as file:
            file.write('{"key": ["gsm8k", 7')
        size = (tmp_path / "answers.1.jsonl").stat().st_size
        assert AnswerLog(tmp_path, 0).resumed == 3 and (tmp_path / "answers.1.jsonl").stat().st_size == size

    @pytest.mark.parametrize("broken", ["{broken", '{"key": ["gsm8k", 1, 0, 0], "request": "hash1"}'])
    def test_a_broken_line_is_named(self, tmp_path, broken):
        filled(tmp_path)
        lines = (tmp_path / "answers.0.jsonl").read_text().split("\n")
        (tmp_path / "answers.0.jsonl").write_text("\n".join([lines[0], broken, *lines[2:]]))
        with pytest.raises(ValueError, match=r"answers.0.jsonl line 2 cannot be read"):
            AnswerLog(tmp_path, 0)

    def test_an_answer_to_another_prompt_is_refused(self, tmp_path):
        log = filled(tmp_path)
        assert log.get(KEYS[0], "hash0").startswith("answer 0") and log.get(("gsm8k", 9, 0, 0), "x") is None
        with pytest.raises(ValueError, match="gsm8k document 1 belongs to another prompt"):
            log.get(KEYS[1], "hash0")

    def test_two_runs_at_once_are_refused(self, tmp_path):
        first = AnswerLog(tmp_path, 0)
        with pytest.raises(ValueError, match="another run is writing"):
            AnswerLog(tmp_path, 0)
        first.file.close()
        AnswerLog(tmp_path, 0)


def test_a_response_keeps_its_cost_between_processes():
    response = Response("text", Cost(nfe=3, rank=1))
    for same in (pickle.loads(pickle.dumps(response)), copy.deepcopy(response)):
        assert same == "text" and same.cost == response.cost
    assert json.dumps(response) == '"text"'


def test_changed_settings_are_named(tmp_path):
    settings = {"seed": 42, "gen_kwargs": {"gen_length": 64}}
    check_same_run(tmp_path, settings, write=True)
    check_same_run(tmp_path, json.loads(json.dumps(settings)), write=True)
    with pytest.raises(ValueError, match=r"started with gen_kwargs.gen_length=64, not 32"):
        check_same_run(tmp_path, {"seed": 42, "gen_kwargs": {"gen_length": 32}}, write=True)
    with pytest.raises(ValueError, match=r"started with gen_kwargs.gen_length=64, not None"):
        check_same_run(tmp_path, {"seed": 42, "gen_kwargs": {}}, write=True)
