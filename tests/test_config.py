"""Strict settings: what is refused and how it is said; every file under configs loads."""

from dataclasses import asdict, replace

import pytest

from cd4lm.config import CommandParser, ConfigError, dump, load, one_line
from cd4lm.settings import CDLMConfig, ExperimentConfig, TrainConfig, TrajectoriesConfig
from cd4lm.training.pretrain import PretrainConfig
from evaluation.embedded import model_names
from evaluation.study.settings import StudyConfig
from tests.command_line import alone
from tests.conftest import ROOT

MINIMAL = "teacher: t\noutput_dir: o\ndata: {dataset: tiny, dir: d}\n"


def read(tmp_path, text: str, *overrides: str) -> ExperimentConfig:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return load(ExperimentConfig, path, overrides)


@pytest.mark.parametrize(
    "extra,message",
    [
        ("dscd: {temprature: 2}", "unknown key dscd.temprature: did you mean temperature"),
        ("colour: red", "unknown key colour"),
        ("dscd: {temperature: -1}", r"dscd.temperature=-1 must be above 0"),
        ("dscd: {initial_lambda: 1.5}", "dscd.initial_lambda=1.5 must be at most 1"),
        ("dscd: {initial_lambda: -0.5}", "dscd.initial_lambda=-0.5 must be at least 0"),
        ("dscd: {masks: nest}", "dscd.masks='nest' is not one of nested, independent"),
        ("train: {batch_size: two}", "train.batch_size='two' must be of type int"),
        ("train: {batch_size: 2.0}", "train.batch_size=2.0 must be of type int"),
        ("train: {batch_size: true}", "train.batch_size=True must be of type int"),
        ("train: {learning_rate: true}", "train.learning_rate=True must be a number"),
        ("train: {learning_rate: fast}", "train.learning_rate='fast' must be a number"),
        ("train: {bf16: 1}", "train.bf16=1 must be of type bool"),
        ("train: {launch: 3}", "train.launch=3 must be of type str"),
        ("dscd: {student_ratio: [0.9, 0.4]}", r"dscd.student_ratio=\[0.9, 0.4\] must be in ascending order"),
        ("dscd: {student_ratio: [0.9]}", r"dscd.student_ratio=\[0.9\] must have more than 1 values"),
        ("dscd: {student_ratio: [0, 1, 2]}", r"dscd.student_ratio=\[0, 1, 2\] must have 2 values"),
        ("dscd: {student_ratio: 0.4}", "dscd.student_ratio=0.4 must be a list"),
        ("also: {a: x=1}", "also.a='x=1' must be a list"),
        ("lora: {targets: []}", r"lora.targets=\[\] must hold at least 1 value"),
        ("lora: {rnak: 3}", "unknown key lora.rnak: did you mean rank"),
        ("lora: {dropout: 1.0}", "lora.dropout=1.0 must be below 1"),
        ("train: {betas: [0.9]}", r"train.betas=\[0.9\] must have more than 1 values"),
        ("cdlm: {}\ntad: {}", "cdlm and tad are several objectives: set all but one to null"),
        ("d3llm: {}", "d3llm needs recorded trajectories: add a `trajectories` section"),
        ("d3llm: {block_lengths: []}", r"d3llm.block_lengths=\[\] must hold at least 1 value"),
        ("dparallel: {certainty: -1}", "dparallel.certainty=-1 must be at least 0"),
        ("tad: {system: hello}\ntrajectories: {dir: d}", "system='hello' must contain {answer}"),
        ("tad: {reconstruction: 0, distillation: 0}\ntrajectories: {dir: d}", "must not both be 0"),
        ("format: {prompt_template: hello}", "must contain {question}"),
        ("dscd: 3", "must be a section"),
        ("a: [", "not valid YAML"),
    ],
)
def test_bad_settings_are_named(tmp_path, extra, message):
    with pytest.raises(ConfigError, match=message) as caught:
        read(tmp_path, MINIMAL + extra)
    assert "\n" not in str(caught.value)


def test_missing_settings_are_named(tmp_path):
    with pytest.raises(ConfigError, match="data"):
        read(tmp_path, "teacher: t\noutput_dir: o\n")
    with pytest.raises(ConfigError, match="does not exist"):
        load(ExperimentConfig, tmp_path / "none.yaml")


def test_numbers_in_yaml(tmp_path):
    """YAML reads 5e-6, which has no point, as a string; whole numbers are numbers too, and lists are tuples."""
    config = read(
        tmp_path, MINIMAL + "train: {learning_rate: 5e-6, epochs: 3, clip: .inf}\ndscd: {student_ratio: [0, 1e-1]}"
    )
    assert (config.train.learning_rate, config.train.epochs, config.train.clip) == (5e-6, 3.0, float("inf"))
    assert config.dscd.student_ratio == (0.0, 0.1) and isinstance(config.train.epochs, float)


def test_settings_in_python_are_as_strict(tmp_path):
    """One line names the wrong setting there too, as commands print it."""
    for change in ({"batch_size": 0}, {"batch_size": "2"}, {"bf16": 1}):
        with pytest.raises(ValueError, match="batch_size|bf16") as caught:
            TrainConfig(**change)
        assert "\n" not in one_line(caught.value) and "must be" in one_line(caught.value)
    config = read(tmp_path, MINIMAL)
    with pytest.raises(ValueError, match="group_by_length"):
        replace(
            config, cdlm=CDLMConfig(), trajectories=TrajectoriesConfig("d"), train=TrainConfig(group_by_length=True)
        )
    assert replace(config, teacher="u").teacher == "u" and asdict(config)["data"]["dir"] == "d"
    with pytest.raises(AttributeError):
        config.teacher = "u"


def test_settings_are_read_without_torch():
    """Help texts and refusals need not wait for it."""
    lines = "import sys, cd4lm.config, cd4lm.settings; assert not {'torch', 'transformers'} & sys.modules.keys()"
    assert alone("-c", lines).returncode == 0


def test_overrides(tmp_path):
    config = read(tmp_path, MINIMAL, "dscd.temperature=1.5", "train.learning_rate=5e-6", "train.max_steps=null")
    assert (config.dscd.temperature, config.train.learning_rate, config.train.max_steps) == (1.5, 5e-6, None)
    with pytest.raises(ConfigError, match="section.key=value"):
        read(tmp_path, MINIMAL, "temperature")


class TestExtends:
    def test_sections_are_merged_and_the_rest_replaced(self, tmp_path):
        (tmp_path / "base.yaml").write_text(
            MINIMAL + "dscd: {temperature: 3, student_ratio: [0.5, 0.6]}\nalso: {a: [x=1]}\n"
        )
        (tmp_path / "middle.yaml").write_text("extends: base.yaml\noutput_dir: m\ndscd: {student_ratio: [0.7, 0.8]}\n")
        config = read(tmp_path, "extends: middle.yaml\nalso: {b: [y=2]}\n", "dscd.clamp=5")
        assert (config.teacher, config.output_dir, config.data.dir) == ("t", "m", "d")
        assert (config.dscd.temperature, config.dscd.student_ratio, config.dscd.clamp) == (3, (0.7, 0.8), 5)
        assert config.also == {"a": ("x=1",), "b": ("y=2",)}

    def test_a_file_that_is_not_there_and_a_circle(self, tmp_path):
        with pytest.raises(ConfigError, match="none.yaml does not exist"):
            read(tmp_path, "extends: none.yaml\n")
        (tmp_path / "other.yaml").write_text("extends: run.yaml\n")
        with pytest.raises(ConfigError, match="run.yaml extends itself"):
            read(tmp_path, "extends: other.yaml\n")


def test_a_dumped_config_loads_as_itself(tmp_path):
    config = read(tmp_path, MINIMAL + "dscd: {student_ratio: [0.5, 0.6]}\n")
    dump(config, tmp_path / "again.yaml")
    assert load(ExperimentConfig, tmp_path / "again.yaml") == config


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.name)
def test_every_shipped_config_loads(path):
    if path.name.startswith("accelerate"):
        assert "num_processes" in path.read_text()
    else:
        kinds = {"tiny_teacher": PretrainConfig, "large_teacher": PretrainConfig, "world_teacher": PretrainConfig}
        kinds |= {"evidence": StudyConfig, "gsm8k_numbers_teacher": PretrainConfig}
        load(next((kind for name, kind in kinds.items() if path.name.startswith(name)), ExperimentConfig), path)


def test_published_settings_are_the_papers():
    config = load(ExperimentConfig, ROOT / "configs/llada_8b_gsm8k_published.yaml")
    assert (config.dscd.clamp, config.dscd.kl_positions, config.format.eos) == (5.0, "student", "none")
    assert config.format.prompt_template == "{question} " and config.format.attend_padding
    assert config.train.batch_size * config.train.accumulation * 8 == 64


@pytest.mark.parametrize("backbone", ["llada_8b", "dream_7b"])
def test_settings_of_the_other_methods_are_the_published_ones(backbone):
    runs = {
        name: load(ExperimentConfig, ROOT / f"configs/{backbone}_{name}.yaml") for name in ("dparallel", "d3llm", "tad")
    }
    for name, run in runs.items():
        assert run.objective == name and run.block_causal is None
        assert (run.train.learning_rate, run.train.weight_decay, run.train.warmup_steps) == (2e-5, 0.01, 0)
        assert run.train.clip == 1 and run.lora.alpha == run.lora.rank
    assert [runs[name].lora.rank for name in runs] == [128, 256, 128]
    assert [runs[name].train.epochs for name in runs] == [6, 6, 1]
    assert len(runs["d3llm"].d3llm.block_lengths) == 6  # one per epoch
    assert runs["d3llm"].trajectories == runs["tad"].trajectories and not runs["tad"].trajectories.hidden
    assert runs["tad"].lora.dropout == 0.05
    ancestor = load(ExperimentConfig, ROOT / f"configs/{backbone}_cdlm_d2f.yaml")
    assert ancestor.train.learning_rate == {"llada_8b": 1e-5, "dream_7b": 5e-6}[backbone]
    assert (ancestor.lora.rank, ancestor.lora.alpha, ancestor.lora.dropout) == (32, 32, 0.1)
    assert (ancestor.train.betas, ancestor.train.weight_decay, ancestor.train.warmup_steps) == ((0.9, 0.95), 0.05, 0)


def test_arms_of_the_field_train_as_many_rows():
    """Rows that go forward and backward through the student, of which two-state objectives make two of each."""
    path = ROOT / "configs/tiny_field.yaml"
    arms = [load(ExperimentConfig, path, words) for words in [(), *load(ExperimentConfig, path).also.values()]]
    assert [arm.objective for arm in arms] == ["dscd", "dscd", "cdlm", "dparallel", "d3llm", "tad", "tad"]
    names = [f"{label} student" for label in ("CDLM", "dParallel", "d3LLM", "TAD")]
    assert list(model_names(arms[0])) == ["teacher", "DSCD student", "control (lambda = 0)", *names, "tad path"]
    states = {"cdlm": 2, "dparallel": 2, "d3llm": 2}
    assert {arm.train.max_steps * arm.train.batch_size * states.get(arm.objective, 1) for arm in arms} == {140 * 64}


class TestCommandParser:
    @pytest.mark.parametrize(
        "words,message",
        [
            (["--tresholds", "1"], "unrecognized arguments: --tresholds 1: did you mean --threshold?"),
            (["--zzz"], "unrecognized arguments: --zzz: --help lists the options"),
            (["--threshold", "high"], "argument --threshold: invalid float value: 'high': --help lists the options"),
        ],
    )
    def test_a_mistake_is_one_line(self, capsys, words, message):
        parser = CommandParser("what it does")
        parser.add_argument("--threshold", type=float)
        with pytest.raises(SystemExit) as stop:
            parser.parse_args(words)
        assert stop.value.code == 2 and capsys.readouterr().err == f"error: {message}\n"
