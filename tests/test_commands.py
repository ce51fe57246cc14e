"""The command lines as a user types them: real runs on the bundled teacher, and bad input."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from safetensors.torch import load_file

from cd4lm.data.rows import read_jsonl
from cd4lm.model import LLaDAModelLM
from tests.command_line import alone, command, refused
from tests.conftest import ROOT

pytestmark = pytest.mark.slow

TEACHER = ROOT / "checkpoints/tiny_teacher"
QUESTION = "tom has 7 apples . buys 3 . gives 2 . how many ?"
MINI = """
teacher: checkpoints/tiny_teacher
output_dir: {folder}/out
also: {{control: [dscd.initial_lambda=0, dscd.final_lambda=0]}}
data: {{dataset: tiny, dir: {folder}/data, answers: teacher, answers_block_length: 20, max_samples: 96}}
format: {{answer_length: 40, max_length: 128}}
train: {{max_steps: 6, learning_rate: 1.0e-3, schedule: linear, warmup_steps: 1, batch_size: 8, accumulation: 2,
  eval_every: 3, eval_rows: 16, save_every: 1, log_every: 1, patience: null, bf16: false, gradient_checkpointing: false}}
evaluate: {{problems: 24, batch_size: 24, gen_length: 40, block_length: 20, fixed_steps: [40, 10], thresholds: [0.95, 0.8]}}
"""


def models(compared: dict) -> dict[str, int]:
    """How many runs of each model a comparison has."""
    names = [name.partition(" + ")[0] for name in compared["runs"]]
    return {name: names.count(name) for name in names}


def mini_config(folder):
    path = folder / "mini.yaml"
    path.write_text(MINI.format(folder=folder))
    return path


class TestGenerating:
    def test_fixed_and_dynamic_agree_with_each_other_and_the_counts_add_up(self):
        fixed = command("scripts/LLaDA_generate.py", "--model_path", TEACHER, "--prompt", QUESTION, "--json")
        dynamic = command(
            "scripts/LLaDA_generate_dynamic.py",
            "--model_path",
            TEACHER,
            "--prompt",
            QUESTION,
            "--json",
            "--packed_head",
        )
        assert fixed.returncode == 0 and dynamic.returncode == 0, fixed.stderr + dynamic.stderr
        one, cad = json.loads(fixed.stdout), json.loads(dynamic.stdout)
        for record in (one, cad):
            assert record["answer"].endswith("#### 8")
            assert len(record["commits"]) == record["nfe"]
            assert len(record["answer"].split()) == record["tokens"]
        assert set(one["commits"]) == {1}
        assert cad["nfe"] < one["nfe"]

    def test_demo_shows_every_step(self):
        done = command("inference_demo.py", "--model_path", TEACHER, "--prompt", QUESTION, "--show_steps")
        assert done.returncode == 0, done.stderr
        frames = [line for line in done.stdout.splitlines()[1:] if "·" in line and "NFE" not in line]
        assert len(frames) > 2 and frames[0].count("·") > frames[-1].count("·")
        short = command("inference_demo.py", "--model_path", TEACHER, "--prompt", QUESTION)
        assert len(short.stdout.splitlines()) == 3 and short.stdout.splitlines()[1] in done.stdout
        assert "tokens per forward" in short.stdout and "#### 8" in short.stdout

    @pytest.mark.parametrize(
        "words,message",
        [
            (("--model_path", "/nowhere"), "/nowhere does not exist"),
            (("--model_path", "tests"), "no config.json"),
            (("--confidence_threshold", "1.5"), "threshold=1.5"),
            (("--gen_length", "30"), "not a multiple of block_length"),
            (("--prompt", " "), "the prompt is empty"),
            (("--prompt", "tom has 7 zebras"), "does not know the words zebras"),
        ],
    )
    def test_bad_input(self, words, message):
        base = ("--model_path", TEACHER, "--prompt", QUESTION)
        refused(command("scripts/LLaDA_generate_dynamic.py", *base, *words), message)

    def test_masks_of_a_text_are_filled_in_from_both_sides(self):
        words = ("--model_path", TEACHER, "--prompt", "tom has 7 apples . buys 3 . how many ?", "--json")
        done = command("scripts/infill.py", *words, "--text", "7 [MASK] 3 = [MASK] . #### 10")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == {"text": "7 + 3 = 10 . #### 10", "filled": ["+", "10"], "nfe": 2}
        done = command("scripts/infill.py", *words, "--text", "[MASK:4] = 10 . #### 10")
        assert len(json.loads(done.stdout)["filled"]) == 4
        refused(command("scripts/infill.py", *words, "--text", "7 + 3"), "has no mask: write [MASK]")
        refused(command("scripts/infill.py", *words, "--text", "7 zebras [MASK]"), "does not know the words zebras")

    SCRIPTS = ("LLaDA_generate", "LLaDA_generate_dynamic", "infill", "prepare_data", "run_experiment", "tune_threshold")

    @pytest.mark.parametrize("script", SCRIPTS)
    def test_help(self, script):
        done = command(f"scripts/{script}.py", "--help")
        assert done.returncode == 0 and f"python scripts/{script}.py" in done.stdout

    @pytest.mark.parametrize("file", ["inference_demo.py", "scripts/LLaDA_generate.py", "scripts/infill.py"])
    def test_help_needs_no_torch(self, file):
        code = f"import runpy, sys; sys.argv = ['x', '--help']; runpy.run_path('{file}', run_name='__main__')"
        end = "; assert not {'torch', 'transformers', 'matplotlib', 'datasets'} & set(sys.modules)"
        guarded = f"try:\n    {code}\nexcept SystemExit:\n    pass\n" + end.removeprefix("; ")
        assert alone("-c", guarded).returncode == 0

    def test_a_new_interpreter_and_another_folder(self, tmp_path):
        """Nothing but the script's path is needed."""
        words = (ROOT / "scripts/LLaDA_generate_dynamic.py", "--model_path", TEACHER, "--prompt", QUESTION)
        done = alone(*words, folder=tmp_path)
        assert done.returncode == 0 and "#### 8" in done.stdout, done.stderr


class TestBadExperiments:
    @pytest.mark.parametrize(
        "override,message",
        [
            ("teacher=/nowhere", "/nowhere does not exist"),
            ("teacher=tests", "no config.json"),
            ("dscd.temprature=2", "did you mean temperature"),
            ("evaluate.thresholds=[1.5, 0.95]", "1.5"),
            ("train.launch=configs/accelerate_zero2_8gpu.yaml", "asks for 8 processes per machine"),
        ],
    )
    def test_refused_before_anything_is_written(self, tmp_path, override, message):
        refused(command("scripts/run_experiment.py", mini_config(tmp_path), override), message)
        assert [p.name for p in tmp_path.iterdir()] == ["mini.yaml"]

    @pytest.mark.parametrize(
        "override,message",
        [
            ("lora.targets=[o_proj]", "'o_proj' matches no matrix inside the blocks"),
            ("format.max_length=1000", "exceeds the 256 positions"),
            ("cad_eval={{metric: evaluation.metrics.none, block_length: 20}}", "cannot be imported"),
            (
                "data.dir={folder}/nameless",
                "train.jsonl row 1 has no text in column 'answer', its columns are 'question', 'response'",
            ),
            ("format.max_length=5", "no row fits max_length=5 tokens (1 are longer)"),
            ("train.optimizer=adamw_8bit", "needs the package bitsandbytes"),
        ],
    )
    def test_refused_before_training(self, tmp_path, override, message):
        if "8bit" in override and importlib.util.find_spec("bitsandbytes") is not None:
            pytest.skip("bitsandbytes is installed")
        data = tmp_path / "nameless" if "nameless" in override else tmp_path / "data"
        data.mkdir()
        column = "response" if "nameless" in override else "answer"
        for split in ("train", "validation"):
            (data / f"{split}.jsonl").write_text(json.dumps({"question": QUESTION, column: "#### 8"}) + "\n")
        done = command("-m", "cd4lm.training.train", mini_config(tmp_path), override.format(folder=tmp_path))
        refused(done, message)
        assert not (tmp_path / "out").exists()

    def test_unwritable_output(self, tmp_path):
        (tmp_path / "file").write_text("")
        done = command("scripts/run_experiment.py", mini_config(tmp_path), f"output_dir={tmp_path}/file/out")
        refused(done, "choose another folder")

    def test_a_tokenizer_that_does_not_fit(self, tmp_path):
        shutil.copytree(TEACHER, tmp_path / "teacher")
        config = json.loads((tmp_path / "teacher/config.json").read_text()) | {"mask_token_id": 5}
        (tmp_path / "teacher/config.json").write_text(json.dumps(config))
        words = ("-m", "cd4lm.training.train", mini_config(tmp_path), f"teacher={tmp_path}/teacher")
        refused(command(*words), "mask_token_id=5 is '<|end_header_id|>' in the tokenizer")
        (tmp_path / "teacher/tokenizer.json").unlink()
        refused(command(*words), "has no usable tokenizer")
        assert not (tmp_path / "out").exists()

    def test_rows_that_are_too_long_are_counted_aloud(self, tmp_path):
        (tmp_path / "data").mkdir()
        rows = [json.dumps({"question": QUESTION, "answer": a}) + "\n" for a in ("#### 8", "7 + 3 = 10 . #### 10")]
        for split in ("train", "validation"):
            (tmp_path / f"data/{split}.jsonl").write_text("".join(rows))
        options = ("format.eos=one", "format.max_length=30", "train.max_steps=1")
        done = command("-m", "cd4lm.training.train", mini_config(tmp_path), *options)
        assert done.returncode == 0, done.stderr
        for split in ("train", "validation"):
            assert f"{split}: 1 rows longer than max_length=30 tokens left out" in done.stdout

    def test_truncated_teacher(self, tmp_path):
        for file in TEACHER.iterdir():
            (tmp_path / file.name).write_bytes(file.read_bytes())
        weights = (tmp_path / "model.safetensors").read_bytes()
        (tmp_path / "model.safetensors").write_bytes(weights[:1000])
        refused(command("scripts/run_experiment.py", mini_config(tmp_path), f"teacher={tmp_path}"), "truncated")


class TestExperiment:
    @pytest.fixture(scope="class")
    def finished(self, tmp_path_factory):
        """A whole experiment, killed once during training and started again."""
        folder = tmp_path_factory.mktemp("experiment")
        words = [sys.executable, "scripts/run_experiment.py", str(mini_config(folder))]
        first = subprocess.Popen(
            words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        deadline = time.monotonic() + 240
        while not list(folder.glob("out/checkpoints/checkpoint-2")) and time.monotonic() < deadline:
            time.sleep(0.02)
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
        assert not (folder / "out/student").exists()
        second = command(*words[1:])
        assert second.returncode == 0, second.stderr
        return folder

    def test_everything_is_written(self, finished):
        out = finished / "out"
        names = {p.name for p in out.iterdir()}
        wanted = {
            "student",
            "control",
            "runs",
            "report.md",
            "report.html",
            "summary.txt",
            "logs",
            "comparison.json",
            "frontier.png",
            "training.png",
            "config.yaml",
        }
        assert wanted <= names and not list(out.glob("**/*.partial"))
        compared = json.loads((out / "comparison.json").read_text())
        assert models(compared) == {"teacher": 4, "DSCD student": 4, "control (lambda = 0)": 3}
        assert "What DSCD and CAD bring" in (out / "report.md").read_text()
        for file in out.glob("runs/*/run.json"):
            about = json.loads(file.read_text())
            assert about["name"] in compared["runs"] and about["provenance"]["commit"]

    def test_student_is_in_the_released_layout(self, finished):
        student = LLaDAModelLM.from_pretrained(finished / "out/student")
        teacher = LLaDAModelLM.from_pretrained(TEACHER)
        assert student.state_dict().keys() == teacher.state_dict().keys()
        saved = load_file(finished / "out/student/model.safetensors")
        assert {str(t.dtype) for t in saved.values()} == {"torch.bfloat16"}
        assert (finished / "out/student/tokenizer.json").is_file()

    def test_the_interrupted_run_equals_an_uninterrupted_one(self, finished):
        out = finished / "again"
        words = (mini_config(finished), f"output_dir={out}", "evaluate=null", "also={}")
        done = command("scripts/run_experiment.py", *words)
        assert done.returncode == 0, done.stderr
        losses = [
            [e["loss"] for e in read_jsonl(f / "training_log.jsonl") if "loss" in e] for f in (finished / "out", out)
        ]
        assert len(losses[0]) == 6 and losses[0] == pytest.approx(losses[1], abs=1e-6)

    def test_running_again_repeats_nothing(self, finished):
        before = {p: p.stat().st_mtime_ns for p in finished.glob("out/runs/*/*")}
        done = command("scripts/run_experiment.py", mini_config(finished))
        assert done.returncode == 0, done.stderr
        assert before == {p: p.stat().st_mtime_ns for p in finished.glob("out/runs/*/*")}

    def test_validation_results_stand_apart(self, finished):
        report = (finished / "out/report.md").read_text()
        small = ("evaluate.split=validation", "evaluate.fixed_steps=[40]", "evaluate.problems=8", "also={}")
        done = command("-m", "evaluation.embedded", mini_config(finished), *small)
        assert done.returncode == 0, done.stderr
        assert "(validation split)" in (finished / "out/validation/report.md").read_text()
        assert (finished / "out/report.md").read_text() == report and "(test split)" in report

    def test_resuming_with_other_settings_is_refused(self, finished):
        (finished / "other/checkpoints/checkpoint-1").mkdir(parents=True)
        (finished / "other/checkpoints/checkpoint-1/trainer_state.json").write_text("{}")
        (finished / "other/config.yaml").write_text((finished / "out/config.yaml").read_text())
        done = command(
            "-m", "cd4lm.training.train", mini_config(finished), f"output_dir={finished}/other", "dscd.temperature=1"
        )
        assert done.returncode != 0 and "was started with dscd.temperature=2.0, not 1.0" in done.stderr


class TestCDLM:
    """Paths, a block-causal student, DSCD under its mask, and one report of both."""

    @pytest.fixture(scope="class")
    def finished(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("cdlm")
        words = (
            "also={combination: [cdlm=null]}",
            "block_causal={block_length: 10}",
            f"trajectories={{dir: {folder}/paths, temperatures: [0.0], block_length: 10, rows: 24, shard_rows: 10}}",
            "cdlm={}",
            "train.max_steps=2",
            "train.batch_size=4",
            "train.accumulation=1",
            "train.eval_rows=4",
            "evaluate={problems: 12, gen_length: 40, block_length: 10, fixed_steps: [40, 4], thresholds: [0.9], "
            "headline: 0.9, decoders: [{policy: multi_block, block_add_threshold: 0.2}]}",
        )
        done = command("scripts/run_experiment.py", mini_config(folder), *words, NUM_PROCESSES="1")
        assert done.returncode == 0, done.stderr[-3000:]
        return folder

    def test_every_student_with_and_without_the_cache(self, finished):
        compared = json.loads((finished / "out/comparison.json").read_text())
        assert models(compared) == {"teacher": 4, "CDLM student": 8, "combination": 8}
        assert len(compared["exact_caches"]) == 8 and all(pair["same"] for pair in compared["exact_caches"])
        report = (finished / "out/report.md").read_text()
        for words in (
            "| CDLM student + fixed, steps=4, exact cache |",
            "| combination + cad |",
            "| combination + multi_block |",
        ):
            assert words in report
        assert "The exact cache changed no answer in 8 of 8 runs" in report

    def test_the_student_decodes_with_the_exact_cache_and_its_own_blocks(self, finished):
        words = ("--model_path", finished / "out/student", "--prompt", QUESTION, "--json")
        own = command("scripts/LLaDA_generate_dynamic.py", *words)
        plain = command("scripts/LLaDA_generate_dynamic.py", *words, "--cache", "none")
        assert own.returncode == plain.returncode == 0 and own.stdout == plain.stdout
        other = command("scripts/LLaDA_generate_dynamic.py", *words, "--block_length", "20")
        assert other.returncode == 0 and "block_length=20 is not the 10" in other.stderr
        refused(command("scripts/LLaDA_generate_dynamic.py", *words, "--cache", "dual"), "use 'block', which is exact")
        words = ("--model_path", TEACHER, "--prompt", QUESTION, "--cache", "block")
        refused(command("scripts/LLaDA_generate_dynamic.py", *words), "needs a block-causal checkpoint")

    def test_paths_of_another_collection_are_refused(self, finished):
        paths = f"trajectories={{dir: {finished}/paths, temperatures: [0.5], block_length: 10, rows: 24}}"
        done = command(
            "-m", "cd4lm.training.collect_trajectories", mini_config(finished), "block_causal={block_length: 10}", paths
        )
        assert done.returncode != 0 and "temperatures is [0.0], not [0.5]" in done.stderr.splitlines()[-1]
