"""evaluation_script.py and the shell scripts as a user runs them, on a small checkpoint and local data."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from cd4lm.data.rows import read_jsonl, write_jsonl
from evaluation import evaluation_script, plot_runs
from evaluation.metrics.samples import read_samples
from tests.byte_checkpoint import build
from tests.conftest import ROOT

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


def quality(results: dict) -> dict:
    """What does not depend on the clock."""
    timed = ("tokens_per_second", "latency_mean", "latency_median", "latency_95")
    return {name: value for name, value in results["tasks"]["gsm8k"].items() if name not in timed}


@pytest.fixture(scope="module")
def whole(world):
    return run_here(world, "whole")


@pytest.mark.slow
class TestEvaluation:
    def test_everything_is_written(self, world, whole):
        found = {path.name for path in (world / "whole").iterdir()}
        assert {"results.json", "results.md", "samples_gsm8k.jsonl", "settings.json", "answers.0.jsonl"} <= found
        assert "lm_eval_samples_dllm_gsm8k.jsonl" in found
        samples = read_samples(world / "whole/samples_gsm8k.jsonl")
        assert [s.doc for s in samples] == ROWS and all(
            s.nfe and s.seconds and s.truncated is not None for s in samples
        )
        assert whole["lm_eval"]["dllm_gsm8k"]["right,none"] == whole["tasks"]["gsm8k"]["accuracy"]
        manifest = whole["manifest"]
        assert manifest["decoders"]["dllm_gsm8k"]["threshold"] == 0.95 and manifest["seed"] == 42
        assert {"commit", "versions", "device", "dtype", "prompt_hash", "settings"} <= manifest.keys()
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
        assert 2 <= log.read_bytes().count(b"\n") < len(ROWS) and not (world / "killed/results.json").exists()
        kept = log.read_bytes().rpartition(b"\n")[0]
        again = run_here(world, "killed")
        assert quality(again) == quality(whole) and log.read_bytes().startswith(kept)
        texts = [[s.responses for s in read_samples(world / o / "samples_gsm8k.jsonl")] for o in ("killed", "whole")]
        assert texts[0] == texts[1]

    def test_running_again_decodes_nothing_and_other_settings_are_refused(self, world, whole):
        before = (world / "whole/answers.0.jsonl").read_bytes()
        assert quality(run_here(world, "whole")) == quality(whole)
        assert (world / "whole/answers.0.jsonl").read_bytes() == before
        with pytest.raises(ValueError, match="was started with seed=42, not 43"):
            run_here(world, "whole", "--seed", 43)

    def test_two_processes_give_the_same_answers(self, world, whole):
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        command = [*launch, "evaluation/evaluation_script.py", *words(world, "two", "--limit", "5")]
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
        assert done.returncode == 0, done.stderr[-3000:]
        results = json.loads((world / "two/results.json").read_text())
        assert results["manifest"]["processes"] == 2 and results["tasks"]["gsm8k"]["documents"] == 5
        one, two = (read_samples(world / o / "samples_gsm8k.jsonl") for o in ("whole", "two"))
        assert [s.responses for s in two] == [s.responses for s in one[:5]]
        logs = [read_jsonl(path) for path in sorted((world / "two").glob("answers.*.jsonl"))]
        assert [len(log) for log in logs] == [3, 2]
        assert results["lm_eval"]["dllm_gsm8k"]["sample_len"] in (3, 5)  # lm-eval counts process 0's or all

    def test_a_multiple_choice_task(self, world):
        more = ("--tasks", "tiny_choice", "--include_path", world / "tasks", "--gen_kwargs", "")
        args = ("--model_args", f"pretrained={world}/model,mc_samples=4")
        results = run_here(world, "choice", *more, *args)
        assert 0 <= results["lm_eval"]["tiny_choice"]["acc,none"] <= 1 and results["tasks"] == {}
        answers = read_jsonl(world / "choice/answers.0.jsonl")
        assert len(answers) == 8 and all(a["answer"]["log_likelihood"] < 0 for a in answers)
        assert "tiny_choice | acc (none)" in (world / "choice/results.md").read_text()

    def test_programs_and_five_samples(self, world):
        more = (
            "--tasks",
            "dllm_humaneval_pass5,dllm_mbpp",
            "--confirm_run_unsafe_code",
            "--gen_kwargs",
            "gen_length=16",
        )
        results = run_here(world, "programs", *more)
        five, mbpp = results["tasks"]["humaneval_pass5"], results["tasks"]["mbpp"]
        assert (five["documents"], five["responses"], mbpp["documents"]) == (1, 5, 2)
        (sample,) = read_samples(world / "programs/samples_humaneval_pass5.jsonl")
        assert len(set(sample.responses)) > 1 and sample.right is False
        assert [s.doc["task_id"] for s in read_samples(world / "programs/samples_mbpp.jsonl")] == [11, 510]
        decoders = results["manifest"]["decoders"]
        assert decoders["dllm_humaneval_pass5"]["temperature"] == 1.2 and decoders["dllm_mbpp"]["temperature"] == 0

    def test_an_unknown_task_is_named(self, world):
        with pytest.raises(ValueError, match="unknown task dllm_gsm8: did you mean dllm_gsm8k"):
            run_here(world, "unknown", "--tasks", "dllm_gsm8")
        with pytest.raises(ValueError, match="mbpp_plus/test.jsonl does not exist"):
            run_here(world, "unknown", "--tasks", "dllm_mbpp_plus", "--confirm_run_unsafe_code")

    def test_a_script_runs_the_method_its_baselines_and_one_table(self, world):
        setting = {"LIMIT": "2", "BATCH_SIZE": "2", "GEN_LENGTH": "16", "BLOCK_LENGTH": "16", "OMP_NUM_THREADS": "1"}
        places = {"MODEL_PATH": world / "model", "DATA_DIR": world / "data", "OUTPUT_PATH": world / "script"}
        runs = {"THRESHOLDS": "0.95", "RUNS": "cad fixed_stop"}
        environment = os.environ | setting | runs | {name: str(path) for name, path in places.items()}
        done = subprocess.run(
            ["bash", "evaluation/scripts/eval_gsm8k.sh"], cwd=ROOT, capture_output=True, text=True, env=environment
        )
        assert done.returncode == 0, done.stderr[-3000:]
        found = {path.name for path in (world / "script").iterdir()}
        outputs = {"frontier.md", "frontier.json", "frontier.png", "comparison.json"}
        assert outputs | {"cad_0.95", "fixed_stop"} == found
        table = (world / "script/frontier.md").read_text()
        assert all(f"| {run} |" in table for run in ("cad_0.95", "fixed_stop")) and "McNemar" in done.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shell_scripts_can_be_read(script):
    subprocess.run(["bash", "-n", script], check=True)
    assert len(script.read_text().splitlines()) <= 60


def result(accuracy, nfe, rho) -> dict:
    keys = ("tokens_per_second", "latency_mean", "truncated", "no_answer")
    costs = {"nfe": nfe, "tokens_per_forward": rho, "documents": 100, "responses": 100}
    return dict.fromkeys(keys, 0.0) | costs | {"accuracy": accuracy, "accuracy_95": (accuracy - 0.1, accuracy + 0.1)}


class TestFrontier:
    def test_thresholds_form_a_family_with_its_area(self, tmp_path):
        runs = {"cad_0.9": (0.8, 20, 4.0), "cad_0.95": (0.8, 40, 2.0), "fixed_stop": (0.8, 80, 1.0)}
        for name, values in runs.items():
            (tmp_path / name).mkdir()
            (tmp_path / name / "results.json").write_text(json.dumps({"tasks": {"gsm8k": result(*values)}}))
        points = plot_runs.points_by_task([tmp_path / name for name in runs])
        assert [r["run"] for r in points["gsm8k"]] == ["cad_0.9", "cad_0.95", "fixed_stop"]
        assert {r["family"] for r in points["gsm8k"]} == {"cad", "fixed_stop"}
        assert plot_runs.areas(points["gsm8k"]) == {"cad": pytest.approx(2 * 80 + 2 * 80)}
        assert "AUP of cad: 320.0 (y_max 80.0)" in plot_runs.table(points)
        assert plot_runs.spaced_ticks([40, 20, 20.5, 80]) == ([20, 40, 80], ["20.0", "40.0", "80.0"])
        plot_runs.plot(points, tmp_path / "frontier.png")
        assert (tmp_path / "frontier.png").stat().st_size > 10_000

    def test_an_unfinished_run_is_named(self, tmp_path):
        with pytest.raises(ValueError, match=r"results.json does not exist: finish that evaluation"):
            plot_runs.points_by_task([tmp_path])
