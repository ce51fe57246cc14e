"""evaluation_script.py and the shell scripts as a user runs them, on a small checkpoint and local data."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from cd4lm.data.rows import read_jsonl, write_jsonl
from evaluation import evaluation_script
from evaluation.compare import summarise
from evaluation.run import Run
from tests.byte_checkpoint import build
from tests.conftest import ROOT

INPUTS = ROOT / "tests/fixtures/inputs"
SCRIPTS = sorted((ROOT / "evaluation/scripts").glob("*.sh"))
GEN_KWARGS = "use_dynamic=true,gen_length=64,block_length=32,confidence_threshold=0.95,eos_threshold_ratio=0.3"
ROWS = [
    {"question": f"Tom has {i} apples and buys {i + 2}. How many?", "answer": f"#### {2 * i + 2}"} for i in range(6)
]
HUMANEVAL = {
    "task_id": "HumanEval/0",
    "prompt": "def one():\n",
    "entry_point": "one",
    "canonical_solution": "    return 1\n",
}
HUMANEVAL["test"] = "def check(candidate):\n    assert candidate() == 1\n"
MBPP = {"text": "Write a function that returns one.", "code": "def one():\n    return 1", "test_setup_code": ""}
MBPP |= {"test_list": ["assert one() == 1"] * 3, "challenge_test_list": []}
CHOICE_TASK = """
task: tiny_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/choice.jsonl}}}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{label}}}}"
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""

WRITING_TASK = """
task: tiny_writing
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/choice.jsonl}}}}
output_type: generate_until
test_split: test
fewshot_split: test
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{choices[0]}}}}"
generation_kwargs: {{until: ["\\n"], do_sample: false, max_gen_toks: 20}}
filter_list: [{{name: digits, filter: [{{function: regex, regex_pattern: "([0-9])"}}, {{function: take_first}}]}}]
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A checkpoint, local data, and a multiple-choice task of our own."""
    folder = tmp_path_factory.mktemp("evaluation")
    build(folder / "model")
    (folder / "data/gsm8k").mkdir(parents=True)
    write_jsonl(folder / "data/gsm8k/test.jsonl", ROWS)
    for task, file, rows in (
        ("humaneval", "test", [HUMANEVAL]),
        ("mbpp", "all", [MBPP | {"task_id": number} for number in (10, 11, 510, 511)]),
    ):
        (folder / "data" / task).mkdir()
        write_jsonl(folder / "data" / task / f"{file}.jsonl", rows)
    (folder / "tasks").mkdir()
    (folder / "tasks/tiny_choice.yaml").write_text(CHOICE_TASK.format(folder=folder))
    (folder / "tasks/tiny_writing.yaml").write_text(WRITING_TASK.format(folder=folder))
    choices = [{"question": f"{i} plus 1 is", "choices": [str(i + 1), "seven"], "label": i % 2} for i in range(4)]
    write_jsonl(folder / "choice.jsonl", choices)
    return folder


def words(world, output, *more) -> list[str]:
    fixed = ["-m", "dllm_eval", "--model", "LLaDA", "--tasks", "dllm_gsm8k", "--batch_size", "2"]
    model = ["--model_args", f"pretrained={world}/model", "--gen_kwargs", GEN_KWARGS, "--log_samples"]
    return [*fixed, *model, "--data_dir", str(world / "data"), "--output_path", str(world / output), *map(str, more)]


def run_here(world, output, *more) -> dict:
    """The command's main, without the seconds that a new interpreter takes."""
    before, sys.argv = sys.argv, ["evaluation_script.py", *words(world, output, *more)]
    try:
        evaluation_script.main()
    finally:
        sys.argv = before
    return json.loads((world / output / "results.json").read_text())


def quality(output) -> list[dict]:
    """The documents of a run without what depends on the clock."""
    timed = ("seconds", "clock", "session", "rank")
    return [{k: v for k, v in document.items() if k not in timed} for document in Run.read(output).documents]


@pytest.fixture(scope="module")
def whole(world):
    return run_here(world, "whole")


@pytest.mark.slow
class TestEvaluation:
    def test_everything_is_written(self, world, whole):
        found = {path.name for path in (world / "whole").iterdir()}
        files = {"run.json", "documents.jsonl", "results.json", "results.md", "settings.json", "answers.0.jsonl"}
        assert found == files | {"lm_eval_samples_dllm_gsm8k.jsonl"}
        run = Run.read(world / "whole")
        assert [d["doc"] for d in run.documents] == ROWS and [d["id"] for d in run.documents] == list(range(6))
        assert all(d["nfe"] and 0 < d["seconds"] <= d["clock"] for d in run.documents)
        assert (run.name, run.task, run.about["seed"]) == ("whole", "gsm8k", 42)
        assert run.about["decoder"]["confidence_threshold"] == 0.95 and run.about["decoder"]["seed"] == 42
        assert run.about["model"].keys() == {"name", "folder", "weights", "dtype"}
        assert {"settings", "prompts", "processes", "provenance"} <= run.about.keys()

    def test_lm_evals_results_are_those_of_the_run(self, world, whole):
        numbers, lm_eval = summarise(Run.read(world / "whole")), whole["lm_eval"]["dllm_gsm8k"]
        assert json.loads(json.dumps(numbers)) == whole["tasks"]["gsm8k"]
        assert (lm_eval["right,none"], lm_eval["outcomes,none"]) == (numbers["accuracy"], numbers["outcomes"])
        assert lm_eval["nfe,none"] == pytest.approx(numbers["nfe"])
        assert lm_eval["tokens,none"] == pytest.approx(numbers["tokens_before_eos"])

    def test_the_prompt_is_a_chat_with_our_instructions(self, world, whole):
        prompt = read_jsonl(world / "whole/lm_eval_samples_dllm_gsm8k.jsonl")[0]["arguments"][0][0]
        assert prompt.startswith("<|startoftext|><|start_header_id|>system<|end_header_id|>")
        assert "<reasoning>" in prompt and r"\boxed{" in prompt
        assert prompt.endswith("<|start_header_id|>assistant<|end_header_id|>\n\n") and ROWS[0]["question"] in prompt

    def test_killed_in_the_middle_and_run_again(self, world, whole):
        command = [sys.executable, "evaluation/evaluation_script.py", *words(world, "killed")]
        log = world / "killed/answers.0.jsonl"
        first = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        deadline = time.monotonic() + 300
        while not (log.is_file() and log.read_bytes().count(b"\n") >= 2) and time.monotonic() < deadline:
            time.sleep(0.005)
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
        assert 2 <= log.read_bytes().count(b"\n") < len(ROWS) and not (world / "killed/run.json").exists()
        kept = log.read_bytes().rpartition(b"\n")[0]
        run_here(world, "killed")
        assert quality(world / "killed") == quality(world / "whole") and log.read_bytes().startswith(kept)
        assert {document["session"] for document in Run.read(world / "killed").documents} == {1, 2}

    def test_running_again_decodes_nothing_and_other_settings_are_refused(self, world, whole):
        before = (world / "whole/answers.0.jsonl").read_bytes()
        assert run_here(world, "whole")["tasks"] == whole["tasks"]
        assert (world / "whole/answers.0.jsonl").read_bytes() == before
        with pytest.raises(ValueError, match="was started with seed=42, not 43"):
            run_here(world, "whole", "--seed", 43)

    def test_rows_are_checked_first_and_a_repaired_file_goes_on(self, world):
        data = world / "repaired"
        (data / "gsm8k").mkdir(parents=True)
        file, broken = data / "gsm8k/test.jsonl", [ROWS[0], ROWS[1] | {"answer": "#### $4"}, *ROWS[2:]]
        write_jsonl(file, ROWS)
        run_here(world, "repairing", "--data_dir", data, "--limit", 2)
        answered = (world / "repairing/answers.0.jsonl").read_bytes()
        write_jsonl(file, broken)
        with pytest.raises(ValueError, match=r"gsm8k/test.jsonl row 2 has no plain number after #### .* but '\$4'"):
            run_here(world, "repairing", "--data_dir", data)
        assert (world / "repairing/answers.0.jsonl").read_bytes() == answered
        write_jsonl(file, [ROWS[0], ROWS[1] | {"answer": "#### 4,000"}, *ROWS[2:]])
        run_here(world, "repairing", "--data_dir", data)
        assert (world / "repairing/answers.0.jsonl").read_bytes().startswith(answered)
        run = Run.read(world / "repairing")
        assert [d["session"] for d in run.documents] == [1, 1, 2, 2, 2, 2] and run.documents[1]["doc"][
            "answer"
        ] == "#### 4,000"

    @pytest.mark.parametrize(
        "name,task,message",
        [
            (
                "F13_data_dir",
                "gsm8k",
                "gsm8k/test.jsonl row 1 has no plain number after #### in column 'answer' but '$18'",
            ),
            ("F18_empty_file", "gsm8k", "gsm8k/test.jsonl holds no rows"),
            ("F18_missing_column", "gsm8k", "gsm8k/test.jsonl row 1 has nothing in column answer"),
            ("F18_mbpp_sanitized", "mbpp", "mbpp/all.jsonl row 1 has nothing in column text"),
        ],
    )
    def test_inputs_that_are_refused(self, world, name, task, message):
        with pytest.raises(ValueError) as caught:
            more = ("--data_dir", INPUTS / name, "--tasks", f"dllm_{task}", "--confirm_run_unsafe_code")
            run_here(world, name, *more)
        assert message in str(caught.value) and "\n" not in str(caught.value) and not (world / name).exists()

    def test_two_processes_give_the_same_answers(self, world, whole):
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        command = [*launch, "evaluation/evaluation_script.py", *words(world, "two", "--limit", "5", "--name", "pair")]
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
        assert done.returncode == 0, done.stderr[-3000:]
        run = Run.read(world / "two")
        assert (run.name, run.about["processes"]) == ("pair", 2)
        assert quality(world / "two") == quality(world / "whole")[:5]
        assert [document["rank"] for document in run.documents] == [0, 1, 0, 1, 0]
        logs = [read_jsonl(path) for path in sorted((world / "two").glob("answers.*.jsonl"))]
        assert [len(log) for log in logs] == [3, 2]
        lm_eval = json.loads((world / "two/results.json").read_text())["lm_eval"]["dllm_gsm8k"]
        assert sum(lm_eval["outcomes,none"].values()) == 5  # of all processes

    def test_a_multiple_choice_task(self, world):
        more = ("--tasks", "tiny_choice", "--include_path", world / "tasks", "--gen_kwargs", "")
        args = ("--model_args", f"pretrained={world}/model,mc_samples=4")
        results = run_here(world, "choice", *more, *args)
        assert 0 <= results["lm_eval"]["tiny_choice"]["acc,none"] <= 1 and results["tasks"] == {}
        answers = read_jsonl(world / "choice/answers.0.jsonl")
        assert len(answers) == 8 and all(answer["log_likelihood"][0] < 0 for answer in answers)
        assert "tiny_choice | acc (none)" in (world / "choice/results.md").read_text()

    def test_a_task_of_lm_evals_that_generates(self, world):
        more = ("--tasks", "tiny_writing", "--include_path", world / "tasks", "--gen_kwargs", "", "--num_fewshot", 1)
        results = run_here(world, "writing", *more, "--apply_chat_template")
        assert 0 <= results["lm_eval"]["tiny_writing"]["exact_match,digits"] <= 1
        rows = read_jsonl(world / "writing/lm_eval_samples_tiny_writing.jsonl")
        assert all(row["arguments"][0][0].count("plus 1 is") == 2 for row in rows)
        assert all("assistant<|end_header_id|>" in row["arguments"][0][0] for row in rows)
        answers = read_jsonl(world / "writing/answers.0.jsonl")
        assert all(answer["cost"]["tokens"] <= 32 and "\n" not in answer["text"] for answer in answers)

    def test_programs_of_two_tasks_and_several_samples(self, world):
        more = ("--tasks", "dllm_humaneval,dllm_mbpp", "--confirm_run_unsafe_code", "--gen_kwargs", "gen_length=16")
        results = run_here(world, "programs", *more, "--samples", 3)
        assert [(n["documents"], n["responses"]) for n in results["tasks"].values()] == [(1, 3), (2, 6)]
        humaneval, mbpp = (Run.read(world / "programs" / task) for task in ("humaneval", "mbpp"))
        assert humaneval.about["decoder"]["temperature"] == mbpp.about["decoder"]["temperature"] == 1.2
        (document,) = humaneval.documents
        assert len(set(document["response"])) == len(document["outcomes"]) == 3 and document["right"] is False
        assert [d["doc"]["task_id"] for d in mbpp.documents] == [11, 510]
        assert not (world / "programs/run.json").exists()

    def test_what_is_not_there_is_named(self, world):
        for task, message in (
            ("dllm_gsm8", "unknown task dllm_gsm8: did you mean dllm_gsm8k"),
            ("dllm_mbpp_plus", "mbpp_plus/test.jsonl does not exist"),
        ):
            with pytest.raises(ValueError, match=message):
                run_here(world, "unknown", "--tasks", task, "--confirm_run_unsafe_code")
        assert not (world / "unknown").exists()

    def test_a_script_runs_the_method_its_baselines_and_one_report(self, world):
        setting = {"LIMIT": "2", "BATCH_SIZE": "2", "GEN_LENGTH": "16", "BLOCK_LENGTH": "16", "OMP_NUM_THREADS": "1"}
        places = {"MODEL_PATH": world / "model", "DATA_DIR": world / "data", "OUTPUT_PATH": world / "script"}
        runs = {"THRESHOLDS": "0.95", "RUNS": "cad fixed_stop"}
        environment = os.environ | setting | runs | {name: str(path) for name, path in places.items()}
        done = subprocess.run(
            ["bash", "evaluation/scripts/eval_gsm8k.sh"], cwd=ROOT, capture_output=True, text=True, env=environment
        )
        assert done.returncode == 0, done.stderr[-3000:]
        found = {path.name for path in (world / "script").iterdir()}
        assert found == {"report.md", "comparison.json", "frontier.png", "cad_0.95", "fixed_stop"}
        compared = json.loads((world / "script/comparison.json").read_text())
        assert compared["reference"] == "fixed_stop" and set(compared["runs"]) == {"cad_0.95", "fixed_stop"}


def test_help_needs_neither_torch_nor_lm_eval():
    script = "import sys, evaluation.evaluation_script as e; e.parser(); sys.exit(bool({'torch', 'lm_eval'} & {*sys.modules}))"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shell_scripts_can_be_read(script):
    subprocess.run(["bash", "-n", script], check=True)
    assert len(script.read_text().splitlines()) <= 60
