"""Whatever a file or a setting holds, reading it raises ValueError or OSError and no other exception."""

import gzip
import json
import tempfile
from contextlib import suppress
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from cd4lm.config import load, one_line
from cd4lm.data.rows import read_rows
from cd4lm.data.splits import build_splits
from cd4lm.decoding.options import DecodingOptions
from cd4lm.model.loading import load_config
from cd4lm.settings import ExperimentConfig
from evaluation.dllm_eval.options import ModelOptions, generation_pairs
from evaluation.metrics.scoring import METRICS
from tests.conftest import ROOT

TEACHER = ROOT / "checkpoints/tiny_teacher"
CONFIG = json.loads((TEACHER / "config.json").read_text())
MINIMAL = "teacher: t\noutput_dir: o\ndata: {dataset: tiny, dir: d}\n"
some = settings(max_examples=150, deadline=None)

# No denormal numbers: a training test in the same process has them flushed to zero, which hypothesis refuses.
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_subnormal=False) | st.text(st.characters(), max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
columns = st.sampled_from(["question", "answer", "prompt", "test", "entry_point", "test_list", "test_setup_code", "x"])
rows = st.dictionaries(columns, json_values, max_size=5)
files = (
    st.binary(max_size=200)
    | st.lists(rows | json_values, max_size=4).map(lambda found: "\n".join(map(json.dumps, found)).encode())
    | st.lists(rows, max_size=4).map(lambda found: json.dumps(found).encode())
    | st.text("ab,;\t\n\"'{}[]:\\ud83\ufeff", max_size=60).map(lambda text: text.encode("utf-8", "replace"))
)
names = st.sampled_from(["a.jsonl", "a.json", "a.csv", "a.tsv", "a.jsonl.gz", "a.parquet", "a.txt"])
yaml_text = st.text("ab:-, {}[]&*!?|>'\"#%@\n\t019.eE_~<=", max_size=40) | st.text(max_size=30)


def refused_at_most(read, *arguments):
    """Call `read`; a refusal must be one line."""
    with suppress(OSError):
        try:
            read(*arguments)
        except ValueError as error:
            assert "\n" not in one_line(error)


@some
@given(files, names, st.booleans())
def test_data_files(data, name, packed):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / name
        file.write_bytes(gzip.compress(data) if packed else data)
        refused_at_most(lambda: list(read_rows(file)))
        refused_at_most(build_splits, "gsm8k", str(file), "r", None, 1)


@some
@given(rows)
def test_rows_of_benchmarks(row):
    for metric in METRICS.values():
        refused_at_most(metric.check, row)


@some
@given(yaml_text, st.lists(yaml_text.map(lambda text: "train.seed=" + text) | yaml_text, max_size=2), st.booleans())
def test_experiments(text, overrides, whole):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "run.yaml"
        file.write_text(MINIMAL * whole + text, encoding="utf-8", errors="replace")
        refused_at_most(load, ExperimentConfig, file, overrides)


@some
@given(yaml_text | st.tuples(st.sampled_from(sorted(vars(DecodingOptions()))), yaml_text).map("=".join))
def test_options_of_command_lines(text):
    refused_at_most(generation_pairs, text)
    refused_at_most(ModelOptions.parse, text)
    refused_at_most(lambda: DecodingOptions.parse(text).for_checkpoint(TEACHER))


@some
@given(st.dictionaries(st.sampled_from(sorted(CONFIG)) | st.text(max_size=5), json_values, max_size=3))
def test_config_json(fields):
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "model.safetensors").symlink_to(TEACHER / "model.safetensors")
        (Path(folder) / "config.json").write_text(json.dumps(CONFIG | fields))
        refused_at_most(load_config, folder)


@some
@given(st.dictionaries(st.sampled_from(sorted(vars(DecodingOptions()))), json_values, max_size=3) | json_values)
def test_generation_settings(tree):
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "generation_config.json").write_text(json.dumps(tree))
        refused_at_most(DecodingOptions.stored, folder)
