"""The lm-eval model on a small checkpoint: batches, repeats, resuming, likelihoods."""

from concurrent.futures import Future

import pytest
import torch
from lm_eval.api.instance import Instance

from evaluation.dllm_eval.answers import Answer, AnswerLog
from evaluation.dllm_eval.likelihood import greedy
from evaluation.dllm_eval.model import LLaDA
from evaluation.dllm_eval.recorder import Document, Recorder
from evaluation.dllm_eval.results import sample_of, summarise, table, tokens_per_second
from evaluation.dllm_eval.scoring import Scorer
from evaluation.metrics.verdict import NO_ANSWER, RIGHT, Verdict
from tests.byte_checkpoint import build

QUESTIONS = ["What is 2 + 3?", "A hen lays 4 eggs a day. How many in a week, and how many in two?", "7 * 8 = ", "Why?"]
DOCS = [{"question": q, "answer": "#### 5"} for q in QUESTIONS * 2]
GREEDY = {"until": [], "do_sample": False, "gen_length": 24, "block_length": 8, "confidence_threshold": 0.2}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return str(build(tmp_path_factory.mktemp("checkpoint")))


def requests(kwargs=GREEDY, repeats=1, docs=DOCS) -> list[Instance]:
    made = [
        Instance("generate_until", doc, (doc["question"], dict(kwargs)), 0, ("dllm_gsm8k", i, repeats))
        for i, doc in enumerate(docs)
    ]
    return [request for request in made for _ in range(repeats)]


def texts(checkpoint, batch_size=1, log=None, recorder=None, **changes) -> list[str]:
    return LLaDA(checkpoint, batch_size=batch_size, log=log, recorder=recorder).generate_until(requests(**changes))


class TestGenerating:
    def test_batch_1_and_8_give_identical_answers(self, checkpoint):
        one, eight = texts(checkpoint, 1), texts(checkpoint, 8)
        assert one == eight and len(set(one)) == len(QUESTIONS)

    def test_repeats_differ_and_do_not_depend_on_the_batch(self, checkpoint):
        sampled = GREEDY | {"do_sample": True, "temperature": 1.2}
        one, three = (texts(checkpoint, n, kwargs=sampled, repeats=3, docs=DOCS[:2]) for n in (1, 3))
        assert one == three and len(set(one)) == 6

    def test_copies_that_pad_a_process_share_are_not_decoded(self, checkpoint):
        model, asked = LLaDA(checkpoint, batch_size=4), requests(docs=DOCS[:2])
        answers = model.generate_until([*asked, asked[-1], asked[-1]])
        assert answers[1] == answers[2] == answers[3] and len(model.done) == 2

    def test_until_ends_the_text(self, checkpoint):
        whole = texts(checkpoint, docs=DOCS[:1])[0]
        cut = texts(checkpoint, kwargs=GREEDY | {"until": [whole[5:7], whole[9]]}, docs=DOCS[:1])[0]
        assert cut == whole[: min(whole.index(whole[5:7]), whole.index(whole[9]))]

    def test_a_prompt_too_long_is_named_before_anything_is_decoded(self, checkpoint, tmp_path):
        long = [*DOCS[:1], {"question": "x" * 5000, "answer": "#### 1"}]
        with pytest.raises(ValueError, match="dllm_gsm8k document 1: 5000 prompt tokens and gen_length=24 exceed"):
            texts(checkpoint, docs=long, log=AnswerLog(tmp_path, 0))
        assert (tmp_path / "answers.0.jsonl").read_bytes() == b""

    def test_resuming_decodes_only_what_is_missing(self, checkpoint, tmp_path):
        log = AnswerLog(tmp_path, 0)
        whole = texts(checkpoint, 2, log)
        log.file.close()
        lines = (tmp_path / "answers.0.jsonl").read_bytes().splitlines(keepends=True)
        (tmp_path / "answers.0.jsonl").write_bytes(b"".join(lines[:5]) + lines[5][:40])
        log, recorder = AnswerLog(tmp_path, 0), Recorder(Scorer("default", False))
        assert log.resumed == 5 and texts(checkpoint, 2, log, recorder) == whole
        assert sum(answer.session == 2 for _, answer in log.answers.values()) == 3
        assert len(recorder.documents) == len(DOCS) and all(d.verdicts for d in recorder.documents.values())

    def test_the_costs_of_an_answer(self, checkpoint):
        model = LLaDA(checkpoint, batch_size=2)
        model.generate_until(requests(kwargs=GREEDY | {"use_dynamic": False, "confidence_threshold": None}))
        for answer in model.done.values():
            assert answer.nfe <= 24 and 0 <= answer.tokens <= 24 and 0 < answer.seconds <= answer.clock
            assert answer.truncated == (answer.tokens == 24) and (not answer.truncated or answer.nfe == 24)


class TestLikelihood:
    @staticmethod
    def choices(pairs) -> list[Instance]:
        return [Instance("loglikelihood", {"i": i}, pair, 0, ("choice", i, 1)) for i, pair in enumerate(pairs)]

    def test_batches_change_nothing_and_one_token_is_exact(self, checkpoint):
        pairs = [("2 + 2 =", " 4"), ("2 + 2 =", " four"), ("", "abc"), ("x", "y")]
        one, many = (LLaDA(checkpoint, n, mc_samples=8).loglikelihood(self.choices(pairs)) for n in (1, 16))
        assert [a for a, _ in one] == pytest.approx([a for a, _ in many], abs=1e-4)
        assert all(value < 0 for value, _ in one)
        model = LLaDA(checkpoint)
        (x,) = model.tok_encode("x", add_special_tokens=True)
        y = model.tok_encode("y", add_special_tokens=False)[0]
        log_p = (
            model.model(input_ids=torch.tensor([[x, model.model.config.mask_token_id]])).logits[0, 1].log_softmax(-1)
        )
        assert one[3][0] == pytest.approx(log_p[y].item(), abs=1e-4)

    def test_greedy_is_true_for_what_the_model_would_write(self, checkpoint):
        model = LLaDA(checkpoint, batch_size=4, mc_samples=2)
        (best,) = (
            model.model(input_ids=torch.tensor([[*model.tok_encode("x"), model.model.config.mask_token_id]]))
            .logits[:, -1]
            .topk(3)
            .indices
        )
        written = next(t.item() for t in best if t != model.model.config.mask_token_id)
        pairs = [torch.tensor(model.tok_encode("x"))] * 2
        assert greedy(
            model.model, list(zip(pairs, [torch.tensor([written]), torch.tensor([written + 1])], strict=True)), 4
        ) == [
            True,
            False,
        ]

    def test_rolling_covers_every_token_once(self, checkpoint):
        model = LLaDA(checkpoint, mc_samples=2)
        text = "abcdefghij" * 3
        model.model.config.max_sequence_length = 16
        windows = model.windows(Instance("loglikelihood_rolling", {}, (text,), 0, ("rolling", 0, 1)))
        assert [token for _, part in windows for token in part] == model.tok_encode(text, add_special_tokens=False)
        assert all(context and len(context) + len(part) <= 16 for context, part in windows)
        (total,) = model.loglikelihood_rolling([Instance("loglikelihood_rolling", {}, (text,), 0, ("rolling", 0, 1))])
        assert total < 0


def verdict(outcome: str) -> Future:
    future: Future = Future()
    future.set_result(Verdict(outcome))
    return future


class TestResults:
    def test_five_samples_are_right_if_one_is(self):
        answers = {i: Answer(text=str(i), nfe=10 * (i + 1), tokens=20, clock=1.0, truncated=i == 0) for i in range(5)}
        verdicts = [verdict(NO_ANSWER)] * 3 + [verdict(RIGHT), verdict(NO_ANSWER)]
        sample = sample_of(7, Document({"a": 1}, "prompt", 5, answers, verdicts))
        assert sample["right"] and sample["outcome"] == RIGHT and sample["response"] == list("01234")
        assert sample["nfe"] == 30 and sample["truncated"]
        result = summarise([sample])
        assert (result["accuracy"], result["response_accuracy"], result["no_answer"]) == (1.0, 0.2, 4)
        assert result["tokens_per_forward"] == 100 / 150 and result["truncated"] == 0.2
        assert "| x (1) | 100.0" in table({"x": result})

    def test_throughput_adds_processes_and_counts_the_time_of_every_run(self):
        first = [Answer(tokens=10, clock=clock, session=1, rank=0) for clock in (1.0, 2.0)]
        resumed = [Answer(tokens=20, clock=2.0, session=2, rank=0)]
        other = [Answer(tokens=30, clock=3.0, session=1, rank=1)]
        assert tokens_per_second(first) == 10 and tokens_per_second(first + resumed) == 10
        assert tokens_per_second(first + resumed + other) == 20
