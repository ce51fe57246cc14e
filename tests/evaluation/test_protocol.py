"""Stored protocols: what they say, what of them a run must share, and mistakes in one line."""

import os
import subprocess
import sys

import pytest

from cd4lm.config import ConfigError, build
from evaluation import protocol
from evaluation.protocol import NAMES, Benchmark, Protocol, describe, differences, same_conditions
from tests.conftest import ROOT
from tests.evaluation.benchmarks import whole

CANVASES = {"gsm8k": (256, 32), "math": (512, 32), "humaneval": (256, 256), "mbpp": (256, 256)}


def test_cd4lms_protocol_is_the_published_one_and_published_differs_in_its_score_alone():
    ours, published = Protocol.read("default"), Protocol.read("published")
    for name, canvas in CANVASES.items():
        benchmark = ours.benchmarks[name]
        assert (benchmark.gen_length, benchmark.block_length) == canvas
        assert (benchmark.num_fewshot, benchmark.chat_template) == (0, True)
        assert (
            differences(published.benchmarks[name].conditions(), benchmark.conditions())
            == "score=published, not default"
        )
    assert (ours.scoring, published.scoring) == ("default", "published")
    assert [b.run_task for b in ours.benchmarks.values()][:4] == ["gsm8k", "math500", "humaneval", "mbpp"]


def test_the_fields_protocol():
    found = Protocol.read("field").benchmarks
    tasks = {name: (b.task, b.num_fewshot) for name, b in found.items()}
    assert tasks == {
        "gsm8k": ("gsm8k", 0),
        "math": ("minerva_math", 4),
        "humaneval": ("humaneval", 0),
        "mbpp": ("mbpp", 3),
    }
    assert all((b.gen_length, b.block_length, b.chat_template) == (256, 32, True) for b in found.values())
    raw = Protocol.read("field_raw").benchmarks
    assert [raw[name].chat_template for name in found] == [False, False, True, True]
    assert raw["math"].conditions(chat_template=True) == found["math"].conditions()


@pytest.mark.parametrize(
    "name,title", [("gsm8k", "gsm8k"), ("math500", "math"), ("humaneval", "humaneval"), ("mbpp", "mbpp")]
)
def test_the_numbers_of_documents_are_those_of_the_published_files(name, title):
    rows = len(whole(name))
    assert Protocol.read("default").benchmarks[title].documents == rows
    assert name == "math500" or Protocol.read("field").benchmarks[title].documents == rows


def test_every_task_of_ours_is_in_cd4lms_protocol():
    """Else a finished run could not record its conditions."""
    tasks = {path.stem for path in (ROOT / "evaluation/dllm_eval/tasks").glob("dllm_*.yaml")}
    for name in ("default", "published"):
        assert {benchmark.task for benchmark in Protocol.read(name).benchmarks.values()} == tasks


def test_a_benchmark_is_found_by_its_name_and_by_its_task():
    ours, field = Protocol.read("default"), Protocol.read("field")
    assert ours.find("math") is ours.find("math500") is ours.find("dllm_math500") is ours.of("dllm_math500")
    assert field.find("math") is field.find("minerva_math") and field.of("dllm_gsm8k") is None
    with pytest.raises(ValueError, match="protocol field has no benchmark math500: use gsm8k, math, humaneval, mbpp"):
        field.find("math500")


def test_only_equal_conditions_are_the_same_by_whatever_name():
    stored = Protocol.read("field").benchmarks["mbpp"].conditions()
    assert same_conditions({"name": "field_raw"} | stored, stored) and not same_conditions(None, stored)
    for change in ({"num_fewshot": 0}, {"gen_length": 128}, {"chat_template": False}, {"score": "x,y"}, {"samples": 5}):
        recorded = {"name": "field"} | stored | change
        ((name, value),) = change.items()
        assert not same_conditions(recorded, stored)
        assert differences(recorded, stored) == f"{name}={value}, not {stored[name]}"


def test_no_two_conditions_are_described_alike():
    found = [b.conditions() for name in NAMES for b in Protocol.read(name).benchmarks.values()]
    found += [
        found[0] | change for change in ({"samples": 5}, {"until": ["Q:"]}, {"gen_length": 64}, {"block_length": 64})
    ]
    different = {str(sorted(c.items())) for c in found}
    assert len({describe(c) for c in found}) == len(different)


@pytest.mark.parametrize(
    "change,message",
    [
        ({"tsk": "x"}, "unknown key benchmarks.gsm8k.tsk: did you mean task"),
        ({"score": "exact"}, "score='exact' must be default, published or lm-eval's metric,filter"),
        ({"task": "dllm_gsm8k"}, "score='exact_match,none' is lm-eval's, but dllm_gsm8k is not"),
        ({"gen_length": 0}, "benchmarks.gsm8k.gen_length=0 must be at least 1"),
    ],
)
def test_a_file_with_a_mistake_is_one_line(change, message):
    benchmark = {"title": "t", "task": "gsm8k", "documents": 1, "score": "exact_match,none"}
    benchmark |= {"gen_length": 8, "block_length": 8}
    with pytest.raises(ConfigError, match=message) as caught:
        build(Protocol, {"title": "t", "source": "s", "benchmarks": {"gsm8k": benchmark | change}})
    assert "\n" not in str(caught.value)


def test_what_the_shell_scripts_read(run_main, refused):
    assert run_main(protocol.main, "field", "math") == (None, "minerva_math minerva_math 256 32\n")
    assert run_main(protocol.main, "default", "math") == (None, "math500 dllm_math500 512 32\n")
    assert run_main(protocol.main, "default", "humaneval_plus")[1] == "humaneval_plus dllm_humaneval_plus 256 256\n"
    refused(protocol.main, "--protocol fields is not one of default, field, field_raw, published", "fields", "math")
    refused(protocol.main, "protocol field has no benchmark arc: use gsm8k", "field", "arc")


def test_a_script_with_an_unknown_benchmark_stops_in_one_line(tmp_path):
    environment = os.environ | {"PROTOCOL": "field", "TASK": "humaneval_plus", "OUTPUT_PATH": str(tmp_path / "out")}
    command = ["bash", "evaluation/scripts/eval_humaneval.sh"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode != 0 and len(done.stderr.strip().splitlines()) == 1
    assert "protocol field has no benchmark humaneval_plus" in done.stderr and not (tmp_path / "out").exists()


def test_the_command_needs_no_torch():
    script = "import sys, evaluation.protocol; sys.exit(bool({'torch', 'lm_eval'} & {*sys.modules}))"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)


def test_every_field_of_a_benchmark_that_changes_a_figure_is_a_condition():
    described = set(Benchmark.__dataclass_fields__) - {"title", "documents", "files", "columns", "task_ids"}
    assert described | {"samples"} == set(Protocol.read("field").benchmarks["gsm8k"].conditions())
