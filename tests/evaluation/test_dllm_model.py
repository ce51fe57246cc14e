"""The lm-eval model on a small checkpoint: batches, repeats, resuming, likelihoods."""

import pytest
import torch
from lm_eval.api.instance import Instance

from evaluation.dllm_eval.answers import AnswerLog, Cost, Response
from evaluation.dllm_eval.likelihood import greedy
from evaluation.dllm_eval.model import LLaDA
from evaluation.dllm_eval.scoring import Judge, Progress, measures
from evaluation.metrics.verdict import NO_ANSWER, RIGHT, Scoring, Verdict
from tests.byte_checkpoint import build, build_illada

QUESTIONS = ["What is 2 + 3?", "A hen lays 4 eggs a day. How many in a week, and how many in two?", "7 * 8 = ", "Why?"]
DOCS = [{"question": q, "answer": "#### 5"} for q in QUESTIONS * 2]
GREEDY = {"until": [], "do_sample": False, "gen_length": 24, "block_length": 8, "confidence_threshold": 0.2}


@pytest.fixture(scope="module", params=[build, build_illada], ids=["llada", "illada"])
def checkpoint(request, tmp_path_factory):
    return str(request.param(tmp_path_factory.mktemp("checkpoint")))


def requests(kwargs=GREEDY, repeats=1, docs=DOCS) -> list[Instance]:
    made = [
        Instance("generate_until", doc, (doc["question"], dict(kwargs)), 0, ("dllm_gsm8k", i, repeats))
        for i, doc in enumerate(docs)
    ]
    return [request for request in made for _ in range(repeats)]


def texts(checkpoint, batch_size=1, log=None, progress=None, **changes) -> list[Response]:
    return LLaDA(checkpoint, batch_size=batch_size, log=log, progress=progress).generate_until(requests(**changes))


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
        log, progress = AnswerLog(tmp_path, 0), Progress(Judge(Scoring()), show=False)
        assert log.resumed == 5 and texts(checkpoint, 2, log, progress) == whole
        assert sum(answer.cost.session == 2 for _, answer in log.answers.values()) == 3
        assert len(progress.verdicts) == len(DOCS) and len(progress.nfe) == len(DOCS)

    def test_the_costs_of_an_answer(self, checkpoint):
        fixed = GREEDY | {"use_dynamic": False, "confidence_threshold": None}
        for cost in (response.cost for response in texts(checkpoint, 2, kwargs=fixed)):
            assert cost.nfe <= 24 and 0 <= cost.tokens <= 24 and 0 < cost.seconds <= cost.clock
            assert cost.truncated == (cost.tokens == 24) and (not cost.truncated or cost.nfe == 24)


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
        config = model.model.config
        setattr(config, "max_sequence_length" if config.model_type == "llada" else "max_position_embeddings", 16)
        windows = model.windows(Instance("loglikelihood_rolling", {}, (text,), 0, ("rolling", 0, 1)))
        assert [token for _, part in windows for token in part] == model.tok_encode(text, add_special_tokens=False)
        assert all(context and len(context) + len(part) <= 16 for context, part in windows)
        (total,) = model.loglikelihood_rolling([Instance("loglikelihood_rolling", {}, (text,), 0, ("rolling", 0, 1))])
        assert total < 0


class TestMeasures:
    def test_five_samples_are_right_if_one_is(self):
        costs = [Cost(10 * (i + 1), 20, 1.0, i == 0, clock=5.0 - i, session=1 + (i > 2), rank=1) for i in range(5)]
        verdicts = [Verdict(NO_ANSWER)] * 3 + [Verdict(RIGHT, "7"), Verdict(NO_ANSWER)]
        found = measures([Response(str(i), cost) for i, cost in enumerate(costs)], verdicts)
        assert found["right"] and found["answer"] == "7" and found["outcomes"].count(RIGHT) == 1
        assert (found["nfe"], found["tokens"], found["truncated"]) == (30, 20, 0.2)
        assert (found["session"], found["clock"], found["rank"]) == (2, 2.0, 1)

    def test_one_response_keeps_its_own_numbers(self):
        found = measures([Response("x", Cost(nfe=3, tokens=2, truncated=True))], [Verdict(NO_ANSWER)])
        assert found["right"] is False and found["nfe"] == 3 and found["truncated"] is True

    def test_progress_counts_a_document_when_all_its_samples_are_judged(self):
        progress = Progress(Judge(Scoring()), show=False)
        progress.start(2)
        (request, _) = requests(repeats=2, docs=DOCS[:1])
        progress.add(request, Response("no idea", Cost(nfe=10)))
        assert progress.so_far() == {"NFE": "10.0"}
        progress.add(request, Response("#### 5", Cost(nfe=20)))
        progress.judge.pool.shutdown()
        assert progress.so_far() == {"accuracy": "100.0% of 1", "NFE": "15.0"}

    def test_a_verdict_that_cannot_be_had_stops_the_run(self):
        judge = Judge(Scoring())
        with pytest.raises(ValueError, match="confirm_run_unsafe_code"):
            judge.process_results("dllm_mbpp")({}, [Response("```python\nx = 1\n```", Cost())])
