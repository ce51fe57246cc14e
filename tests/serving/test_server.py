"""A real server: curl, the openai client, aborted requests, kill -9, and lm-eval's verdicts. Two starts."""

import hashlib
import json
import os
import random
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
import yaml

from cd4lm.data.examples import encode_prompt, end_ids
from cd4lm.data.tiny_task import World, make_row, score
from cd4lm.decoding import DecodingOptions
from cd4lm.model.loading import tokenizer_for_inference
from tests.conftest import ROOT
from tests.serving.conftest import Server, engine_answers

WORLD = World(wordings=8, chain=(3, 4, 5))
PROBLEMS = [make_row("test", i, world=WORLD) for i in range(50)]


@pytest.fixture(scope="module")
def server(student, tmp_path_factory):
    started = Server(student, tmp_path_factory.mktemp("server") / "log").wait()
    yield started
    started.kill()


@pytest.fixture(scope="module")
def texts(student) -> list[str]:
    """Our engine's answers to the problems, as a client sees them."""
    return answers_of(student, PROBLEMS)


def rows_of(student, problems, **settings) -> list[list[int]]:
    tokenizer = tokenizer_for_inference(student)
    prompts = [encode_prompt(tokenizer, problem["question"]) for problem in problems]
    stored = DecodingOptions.stored(student)
    said = {"threshold": stored.confidence_threshold, "gen_length": stored.gen_length} | settings
    return engine_answers(student, prompts, eos_ids=end_ids(tokenizer), **said)


def answers_of(student, problems, **settings) -> list[str]:
    tokenizer, rows = tokenizer_for_inference(student), rows_of(student, problems, **settings)
    return [tokenizer.decode(row, skip_special_tokens=True).strip() for row in rows]


def client_of(server) -> openai.OpenAI:
    return openai.OpenAI(base_url=server.url, api_key="none", max_retries=0, timeout=600)


def ask(server, question: str, **more) -> str:
    messages = [{"role": "user", "content": question}]
    found = client_of(server).chat.completions.create(model="student", messages=messages, **more)
    return found.choices[0].message.content.strip()  # vLLM decodes piece by piece, which leaves a blank in front


def stream(server, question: str, stop_after: int | None = None) -> list[str]:
    """The pieces of an answer as they come; with stop_after the client hangs up after so many."""
    messages, pieces = [{"role": "user", "content": question}], []
    with client_of(server).chat.completions.create(model="student", messages=messages, stream=True) as chunks:
        for chunk in chunks:
            if chunk.choices and chunk.choices[0].delta.content:
                pieces.append(chunk.choices[0].delta.content)
                if len(pieces) == stop_after:
                    break
    return pieces


def digest(folder) -> str:
    return hashlib.sha256(b"".join(file.read_bytes() for file in sorted(folder.iterdir()))).hexdigest()


def test_curl(server, texts):
    """Nothing but the checkpoint's name and a question: length, threshold and end tokens are the checkpoint's."""
    body = {"model": "student", "messages": [{"role": "user", "content": PROBLEMS[0]["question"]}]}
    words = ["curl", "--silent", f"{server.url}/chat/completions", "-H", "Content-Type: application/json"]
    done = subprocess.run([*words, "-d", json.dumps(body)], capture_output=True, text=True, check=True)
    choice = json.loads(done.stdout)["choices"][0]
    assert choice["message"]["content"].strip() == texts[0] and choice["finish_reason"] in ("stop", "length")


def test_200_requests_of_which_50_hang_up(server, texts):
    """16 at a time, streamed block by block; each of the 50 problems is asked three times to its end."""
    order = [(i % 50, None) for i in range(150)] + [(i, 1) for i in range(50)]
    random.Random(0).shuffle(order)
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda one: stream(server, PROBLEMS[one[0]]["question"], one[1]), order))
    for (problem, hangs_up), pieces in zip(order, found, strict=True):
        assert hangs_up or "".join(pieces).strip() == texts[problem]
    longest = max(found, key=len)
    assert 3 <= len(longest) <= 7  # blocks of 8 in an answer of at most 48 tokens, the first with the prompt's tail


def test_tokens_of_50_answers(server, student):
    """Not the text alone: every token up to and with EOS."""
    rows = rows_of(student, PROBLEMS)
    with ThreadPoolExecutor(16) as pool:
        asked = [[{"role": "user", "content": problem["question"]}] for problem in PROBLEMS]
        how = {"model": "student", "extra_body": {"return_token_ids": True}}
        found = list(pool.map(lambda m: client_of(server).chat.completions.create(messages=m, **how), asked))
    assert [one.choices[0].model_extra["token_ids"] for one in found] == rows


def test_what_a_request_may_say(server, student):
    question = PROBLEMS[3]["question"]
    low = answers_of(student, PROBLEMS[3:4], threshold=0.3)[0]
    assert ask(server, question, extra_body={"vllm_xargs": {"confidence_threshold": 0.3}}) == low
    hot = answers_of(student, PROBLEMS[3:4], temperature=0.9, seed=7)[0]
    assert ask(server, question, temperature=0.9, seed=7) == hot
    short = ask(server, question, max_tokens=8)
    assert short and len(short) < len(ask(server, question, temperature=0, seed=1234))
    schema = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}
    for more, message in (
        ({"top_p": 0.5, "temperature": 0.9}, "top_p=0.5 is not supported by block-causal students"),
        ({"extra_body": {"vllm_xargs": {"confidence_threshold": 2}}}, "is not a probability"),
        ({"response_format": schema}, "Structured outputs are not yet supported"),
        ({"logprobs": True}, "logprobs"),
    ):
        with pytest.raises(openai.BadRequestError, match=message):
            ask(server, question, **more)


def test_lm_eval_has_the_harness_own_verdicts(server, texts, tmp_path):
    """20 problems through local-chat-completions: its answers and its matches of the final number are ours."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(problem) + "\n" for problem in PROBLEMS[:20]))
    task = {
        "task": "embedded",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(rows)}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer.split('#### ')[1]}}",
        "generation_kwargs": {"until": ["<|never|>"], "max_gen_toks": 48},
        "filter_list": [
            {
                "name": "number",
                "filter": [
                    {"function": "regex", "regex_pattern": r"#### (-?\d+)", "group_select": -1},
                    {"function": "take_first"},
                ],
            }
        ],
        "metric_list": [{"metric": "exact_match"}],
    }
    (tmp_path / "embedded.yaml").write_text(yaml.safe_dump(task))
    words = [sys.executable, "-m", "lm_eval", "--model", "local-chat-completions", "--tasks", "embedded"]
    words += [
        "--include_path",
        str(tmp_path),
        "--apply_chat_template",
        "--log_samples",
        "--output_path",
        str(tmp_path / "out"),
    ]
    arguments = (
        f"model=student,base_url={server.url}/chat/completions,num_concurrent=4,max_retries=1,tokenized_requests=False"
    )
    done = subprocess.run([*words, "--model_args", arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    (samples,) = (tmp_path / "out").rglob("samples_*.jsonl")
    found = {s["doc_id"]: s for s in map(json.loads, samples.read_text().splitlines())}
    assert len(found) == 20
    for i, problem in enumerate(PROBLEMS[:20]):
        assert found[i]["resps"][0][0].strip() == texts[i]
        assert bool(found[i]["exact_match"]) == score(problem, texts[i])


def test_the_example_shows_blocks_as_they_come(server, texts):
    words = [
        sys.executable,
        "examples/watch_blocks.py",
        "--base_url",
        server.url,
        "--users",
        "2",
        PROBLEMS[5]["question"],
    ]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, env=os.environ | {"COLUMNS": "250"})
    assert done.returncode == 0, done.stderr
    last = done.stdout.strip().splitlines()[-2:]
    assert all(texts[5] in line for line in last), done.stdout
    lost = subprocess.run([*words[:3], "http://127.0.0.1:9/v1", "x"], capture_output=True, text=True, cwd=ROOT)
    assert lost.returncode == 1 and lost.stderr.splitlines()[-1].startswith("error: http://127.0.0.1:9/v1: ")


def test_the_benchmark_counts_the_same_tokens_on_both_sides(server, student, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(problem) + "\n" for problem in PROBLEMS[:8]))
    words = [sys.executable, "scripts/benchmark_serving.py", "--model_path", str(student), "--data", str(rows)]
    words += ["--base_url", server.url.removesuffix("/v1"), "--served_name", "student", "--prompts", "8"]
    words += ["--concurrency", "1", "8", "--dtype", "float32", "--output_dir", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "serving.json").read_text())["records"]
    assert [(one["side"], one["concurrency"]) for one in found] == [
        ("server", 1),
        ("server", 8),
        ("engine", 1),
        ("engine", 8),
    ]
    assert len({one["tokens"] for one in found}) == 1 and all(one["tokens_per_second"] > 0 for one in found)
    print(done.stdout)


def test_kill_during_requests_and_start_again(server, student, texts, tmp_path):
    """The last of this file: nothing of checkpoint or cache is left broken."""
    before, errors = digest(student), []

    def interrupted(i: int) -> None:
        try:
            stream(server, PROBLEMS[i]["question"])
        except openai.OpenAIError as error:
            errors.append(error)
        except Exception as error:  # httpx's, in the middle of a stream
            errors.append(error)

    threads = [threading.Thread(target=interrupted, args=(i,)) for i in range(16)]
    for thread in threads:
        thread.start()
    stream(server, PROBLEMS[20]["question"], stop_after=1)  # by now all are under way
    server.kill()
    for thread in threads:
        thread.join()
    assert errors and digest(student) == before
    again = Server(student, tmp_path / "log").wait()
    try:
        with ThreadPoolExecutor(16) as pool:
            found = list(pool.map(lambda problem: ask(again, problem["question"]), PROBLEMS[:16]))
    finally:
        again.kill()
    assert found == texts[:16]
