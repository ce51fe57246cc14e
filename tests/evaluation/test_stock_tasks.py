"""lm-eval's own tasks under a stored protocol: local rows, programs in our sandbox, and the runs they record."""

import json
import os
import pickle
import shutil
import subprocess
import sys

import pytest

from cd4lm.data.rows import write_jsonl
from evaluation import evaluation_script, report
from evaluation.dllm_eval import stock, task_list
from evaluation.dllm_eval.answers import Cost, Response
from evaluation.dllm_eval.scoring import Judge
from evaluation.metrics.verdict import NO_ANSWER, RIGHT, WRONG, Scoring
from evaluation.protocol import Protocol, same_conditions
from evaluation.run import Run
from scripts import paper_table
from tests.byte_checkpoint import build
from tests.conftest import ROOT
from tests.evaluation.benchmarks import FILES, SLICES, rows_of

SUBSETS = ["algebra", "counting_and_probability", "geometry", "intermediate_algebra", "number_theory", "prealgebra"]
SUBSETS += ["precalculus"]
FIELD, CONSENT = Protocol.read("field"), Scoring(confirm_run_unsafe_code=True)
SMALL = "gen_length=32,block_length=16,confidence_threshold=0.1"
sandboxed = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bwrap is not installed")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A checkpoint, and rows of the four benchmarks as --data_dir has them."""
    folder = tmp_path_factory.mktemp("field")
    build(folder / "model")
    for task in ("gsm8k", "humaneval", "mbpp"):
        (folder / "data" / task).mkdir(parents=True)
        shutil.copy(SLICES / f"{task}.jsonl", folder / f"data/{FILES[task]}.jsonl")
    (folder / "data/minerva_math").mkdir()
    for n, subset in enumerate(SUBSETS):
        rows = [{"problem": f"What is {n} + {i}?", "solution": f"It is $\\boxed{{{n + i}}}$."} for i in range(3)]
        write_jsonl(folder / f"data/minerva_math/{subset}.jsonl", rows)
    return folder


def load(names, data, scoring=CONSENT) -> dict:
    return task_list.load(names, data, None, 1, Judge(scoring), FIELD)[0]["tasks"]


def run_here(world, output, tasks: str, *more) -> list[Run]:
    fixed = ["--tasks", tasks, "--batch_size", "4", "--model_args", f"pretrained={world}/model", "--limit", "2"]
    places = ["--data_dir", str(world / "data"), "--output_path", str(world / output), "--confirm_run_unsafe_code"]
    before, sys.argv = sys.argv, ["evaluation_script.py", *fixed, *places, *map(str, more)]
    try:
        evaluation_script.main()
    finally:
        sys.argv = before
    return report.read_runs([world / output])


@sandboxed
class TestPrograms:
    def test_code_eval_gives_pass_at_k_from_the_sandbox(self):
        good, bad = "def f(a): return a + 1", "def f(a): return a"
        scorer = stock.CodeEval(CONSENT)
        found, outcomes = scorer.compute(
            references=["assert f(1) == 2", "assert f(0) == 0"], predictions=[[good, bad], [bad, bad]], k=[1, 2, 3]
        )
        assert found == {"pass@1": 0.75, "pass@2": 1.0}  # three samples there are not
        assert outcomes == [[RIGHT, WRONG], [RIGHT, RIGHT]]
        with pytest.raises(ValueError, match="pass --confirm_run_unsafe_code"):
            stock.CodeEval(Scoring()).compute(references=["assert True"], predictions=[[good]], k=[1])

    @pytest.mark.slow
    def test_lm_evals_own_metric_passes_gold_programs_and_only_these(self, world):
        """Its tasks as they are, but for the package `evaluate`, which is not even imported."""
        before = sys.modules.get("evaluate")
        tasks = load(["humaneval", "mbpp"], world / "data")
        assert sys.modules.get("evaluate") is before
        row = rows_of("humaneval")[0]
        prediction = row["prompt"] + row["canonical_solution"]
        assert tasks["humaneval"].process_results(row, [[prediction]]) == {"pass@1": 1.0}
        assert tasks["humaneval"].process_results(row, [[row["prompt"] + "    return None\n"]]) == {"pass@1": 0.0}
        rows = [row for row in rows_of("mbpp") if 11 <= row["task_id"] <= 510]
        assert [doc["task_id"] for doc in tasks["mbpp"].test_docs()] == [row["task_id"] for row in rows]
        assert tasks["mbpp"].process_results(rows[0], [rows[0]["code"]]) == {"pass_at_1": 1.0}
        assert tasks["mbpp"].process_results(rows[0], ["pass"]) == {"pass_at_1": 0.0}
        shots = tasks["mbpp"].fewshot_docs()
        assert [shot["task_id"] for shot in shots] == [2, 3, 4]  # the published ones, which lm-eval carries itself

    @pytest.mark.slow
    def test_without_consent_nothing_is_imported(self, world):
        with pytest.raises(ValueError, match="humaneval runs programs that a model wrote") as caught:
            load(["humaneval"], world / "data", Scoring())
        assert "\n" not in str(caught.value)


@pytest.mark.slow
class TestRows:
    @pytest.mark.parametrize(
        "task,file,row,message",
        [
            (
                "minerva_math",
                "minerva_math/algebra",
                {"problem": "p", "solution": "2"},
                r"has no \boxed in column 'solution'",
            ),
            ("minerva_math", "minerva_math/algebra", {"problem": "p"}, "has nothing in column solution"),
            ("gsm8k", "gsm8k/test", {"question": "q", "answer": "4"}, "has no #### in column 'answer'"),
            ("mbpp", "mbpp/all", {"task_id": 600, "text": "t"}, "holds no rows of mbpp"),
        ],
    )
    def test_a_row_that_lm_eval_could_not_score_is_named(self, tmp_path, task, file, row, message):
        path = tmp_path / f"{file}.jsonl"
        path.parent.mkdir()
        write_jsonl(path, [row])
        with pytest.raises(ValueError) as caught:
            load([task], tmp_path)
        assert message in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)

    def test_a_missing_file_is_named(self, tmp_path):
        with pytest.raises(ValueError, match="minerva_math/algebra.jsonl does not exist: --data_dir must hold it"):
            load(["minerva_math"], tmp_path)

    def test_examples_without_their_split_are_refused(self, world, monkeypatch):
        """GSM8K's examples come from its train split, which a run of no shots does not need."""
        assert len(load(["gsm8k"], world / "data")["gsm8k"].test_docs()) == len(rows_of("gsm8k"))
        monkeypatch.setitem(vars(FIELD.benchmarks["gsm8k"]), "num_fewshot", 3)
        with pytest.raises(ValueError, match="gsm8k/train.jsonl does not exist: the examples of gsm8k come from it"):
            load(["gsm8k"], world / "data")


def test_a_response_keeps_its_cost_between_processes():
    response = pickle.loads(pickle.dumps(Response("text", Cost(nfe=3, tokens=5))))
    assert response == "text" and response.cost == Cost(nfe=3, tokens=5)


class TestVerdicts:
    GSM8K, HUMANEVAL = FIELD.benchmarks["gsm8k"], FIELD.benchmarks["humaneval"]

    def row(self, kind: str, score: float, answer: str) -> dict:
        resps = [[Response("so 5", Cost(nfe=7, tokens=9))]]
        return {
            "doc_id": 0,
            "filter": kind,
            "exact_match": score,
            "filtered_resps": [answer],
            "resps": resps,
            "doc": {},
        }

    def test_the_score_of_the_protocol_is_what_counts(self):
        samples = {"gsm8k": [self.row("strict-match", 0.0, "[invalid]"), self.row("flexible-extract", 1.0, "5")]}
        (found,) = stock.documents(samples, ["gsm8k"], self.GSM8K, Judge(Scoring()))
        assert (found["right"], found["outcomes"], found["answer"]) == (True, [RIGHT], "5")
        assert (found["nfe"], found["tokens"], found["filtered_resps"], found["doc_id"]) == (7, 9, ["so 5"], 0)

    @pytest.mark.parametrize("answer,outcome", [("[invalid]", NO_ANSWER), ("6", WRONG)])
    def test_no_answer_is_told_from_a_wrong_one(self, answer, outcome):
        row = self.row("flexible-extract", 0.0, answer)
        assert stock.verdict_of(row, self.GSM8K, Judge(Scoring())).outcome == outcome

    def test_a_score_that_the_task_does_not_have_is_named(self):
        with pytest.raises(ValueError, match="gsm8k has no filter flexible-extract, only strict-match"):
            stock.scored([self.row("strict-match", 1.0, "5")], self.GSM8K)

    @sandboxed
    def test_a_program_in_a_block_is_right_where_lm_evals_score_appends_the_whole_text(self):
        row = rows_of("humaneval")[0]
        text = f"Sure:\n```python\n{row['prompt']}{row['canonical_solution']}```"
        sample = {"doc": row, "resps": [[Response(text, Cost())]], "filtered_resps": [[row["prompt"] + text]]}
        assert stock.verdict_of(sample, self.HUMANEVAL, Judge(CONSENT)).right
        appended, _ = stock.CodeEval(CONSENT).compute(
            references=[f"{row['test']}\ncheck({row['entry_point']})"], predictions=[[row["prompt"] + text]], k=[1]
        )
        assert appended == {"pass@1": 0.0}


@pytest.fixture(scope="module")
def runs(world):
    """Four real runs: under the field's protocol, with another canvas, without its template, and under CD4LM's."""
    how = ("--gen_kwargs", "confidence_threshold=0.1", "--protocol")
    found = run_here(world, "runs/as_stored", "gsm8k", *how, "field")
    found += run_here(world, "runs/short", "gsm8k", "--gen_kwargs", SMALL, "--protocol", "field")
    found += run_here(world, "runs/raw", "gsm8k", *how, "field", "--no-apply_chat_template")
    found += run_here(world, "runs/ours", "dllm_gsm8k", "--gen_kwargs", "gen_length=256,block_length=32")
    return dict(zip(("as_stored", "short", "raw", "ours"), found, strict=True))


@sandboxed
@pytest.mark.slow
class TestRuns:
    def test_a_run_records_the_conditions_it_was_made_under(self, runs):
        stored = FIELD.benchmarks["gsm8k"].conditions()
        assert same_conditions(runs["as_stored"].protocol, stored)
        assert {name: run.protocol["name"] for name, run in runs.items()} == {
            "as_stored": "field", "short": "field", "raw": "field", "ours": "default"
        }  # fmt: skip
        assert runs["short"].protocol == {"name": "field"} | stored | {"gen_length": 32, "block_length": 16}
        assert runs["raw"].protocol == {"name": "field"} | stored | {"chat_template": False}
        assert same_conditions(runs["ours"].protocol, Protocol.read("default").benchmarks["gsm8k"].conditions())
        assert [len(run.documents) for run in runs.values()] == [2] * 4
        assert runs["as_stored"].about["decoder"]["gen_length"] == 256  # not the 32 of the checkpoint

    def test_the_four_benchmarks_are_runs_with_documents_and_costs(self, world):
        tasks = "gsm8k,minerva_math,humaneval,mbpp"
        found = {run.task: run for run in run_here(world, "all", tasks, "--protocol", "field", "--gen_kwargs", SMALL)}
        assert list(found) == sorted(tasks.split(","))
        assert [len(found[task].documents) for task in tasks.split(",")] == [2, 14, 2, 2]
        assert {d["id"] for d in found["minerva_math"].documents} >= {
            "minerva_math_algebra/0",
            "minerva_math_precalc/1",
        }
        for run in found.values():
            assert all(0 < d["nfe"] <= 32 and d["seconds"] > 0 and isinstance(d["right"], bool) for d in run.documents)
        lm_eval = json.loads((world / "all/results.json").read_text())["lm_eval"]
        assert lm_eval["gsm8k"]["exact_match,flexible-extract"] == found["gsm8k"].right.mean()
        assert {"pass@1,create_test", "pass_at_1,none"} <= lm_eval["humaneval"].keys() | lm_eval["mbpp"].keys()
        samples = [json.loads(line) for line in (world / "all/answers.0.jsonl").read_text().splitlines()]
        assert len(samples) == 20

    def test_a_table_for_each_protocol_and_no_run_left_out(self, world, runs, run_main):
        message, printed = run_main(paper_table.main, world / "runs", "--protocol", "field")
        assert message is None and (world / "runs/table_field.md").read_text() in printed
        pools = json.loads((world / "runs/table_field.json").read_text())
        held = {run["name"]: pool for pool in pools for run in pool["runs"]}
        assert sorted(held) == sorted(["as_stored", "short", "raw", "ours"])
        assert len({held[name]["protocol"] for name in held}) == 4
        assert "dParallel" in held["as_stored"]["published"] and "TAD speed" in held["as_stored"]["published"]
        assert all(not held[name]["published"] for name in ("short", "raw", "ours"))
        assert "gen_length=32, not 256, block_length=16, not 32" in held["short"]["note"]
        assert "chat_template=False, not True" in held["raw"]["note"]
        for table in printed.split("\n\n"):
            names = [name for name in held if f": {name} |" in table]
            assert len(names) <= 1 and ("published" not in table or names in ([], ["as_stored"]) or "|" not in table)

    def test_one_report_compares_no_two_protocols(self, world, runs, run_main, refused):
        message, _ = run_main(report.main, world / "runs", "--output_path", world / "reports")
        assert message is None
        folders = {path.parent.name for path in (world / "reports").rglob("report.md")}
        assert folders == {"gsm8k_default", "gsm8k_field", "gsm8k_field_2"}
        same = json.loads((world / "reports/gsm8k_field/comparison.json").read_text())
        assert set(same["runs"]) == {"as_stored", "short"}  # the canvas is part of the decoder
        with pytest.raises(ValueError, match="compare runs under one protocol"):
            report.compare([runs["as_stored"], runs["raw"]])

    def test_the_same_command_decodes_nothing_and_a_changed_protocol_is_refused(self, world, runs):
        log = world / "runs/short/answers.0.jsonl"
        before = log.read_bytes()
        again = run_here(world, "runs/short", "gsm8k", "--gen_kwargs", SMALL, "--protocol", "field")
        assert again[0].documents == runs["short"].documents and log.read_bytes() == before
        settings = world / "runs/short/settings.json"
        kept = settings.read_text()
        settings.write_text(kept.replace('"num_fewshot": 0', '"num_fewshot": 5'))  # as if the file had changed since
        with pytest.raises(ValueError, match=r"was started with conditions.gsm8k.num_fewshot=5, not 0"):
            run_here(world, "runs/short", "gsm8k", "--gen_kwargs", SMALL, "--protocol", "field")
        settings.write_text(kept)

    def test_a_script_runs_the_fields_protocol_with_any_decoder(self, world):
        places = {"MODEL_PATH": world / "model", "DATA_DIR": world / "data", "OUTPUT_PATH": world / "script"}
        setting = {
            "PROTOCOL": "field",
            "LIMIT": "1",
            "BATCH_SIZE": "7",
            "RUNS": "entropy:policy=entropy,entropy_threshold=-9",
        }
        setting |= {"GEN_LENGTH": "32", "BLOCK_LENGTH": "16", "OMP_NUM_THREADS": "1"}
        environment = os.environ | setting | {name: str(path) for name, path in places.items()}
        done = subprocess.run(
            ["bash", "evaluation/scripts/eval_math.sh"], cwd=ROOT, capture_output=True, text=True, env=environment
        )
        assert done.returncode == 0, done.stderr[-3000:]
        (run,) = report.read_runs([world / "script"])
        assert (run.name, run.task, len(run.documents)) == ("entropy", "minerva_math", 7)
        assert run.about["decoder"]["policy"] == "entropy" and run.about["decoder"]["gen_length"] == 32
        assert "lm-eval's minerva_math, 4 shots" in (world / "script/report.md").read_text()


@pytest.mark.parametrize(
    "words,message",
    [
        (
            ["--tasks", "dllm_gsm8k"],
            "--protocol field does not have dllm_gsm8k: use gsm8k, minerva_math, humaneval, mbpp",
        ),
        (["--tasks", "gsm8k", "--samples", "2"], "--samples 2 is for this repository's tasks"),
        (["--tasks", "humaneval"], "add --confirm_run_unsafe_code"),
        (
            ["--tasks", "gsm8k_cot_zeroshot,mbpp", "--protocol", "field_raw", "--confirm_run_unsafe_code"],
            "with and without",
        ),
    ],
)
def test_what_a_protocol_does_not_have_is_refused_at_once(tmp_path, refused, words, message):
    fixed = ["--protocol", "field", "--model_args", "pretrained=/nowhere", "--output_path", tmp_path / "out"]
    refused(evaluation_script.main, message, *fixed, *words)
