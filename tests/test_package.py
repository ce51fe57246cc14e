"""The package as a stranger installs it: a wheel in an environment of its own, away from the repository."""

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile

import pytest

from tests.conftest import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    from pip._vendor import tomli as tomllib

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Distributions whose module has another name.
MODULES = {"pyyaml": "yaml", "lm_eval": "lm_eval", "math_verify": "math_verify"}
DECODE = """
import sys
from cd4lm.decoding import DecodingOptions, generate
from cd4lm.data.examples import encode_prompt
from cd4lm.model.loading import load_for_inference
import torch
folder = sys.argv[1]
decoder = DecodingOptions(confidence_threshold=0.9).for_checkpoint(folder)
model, tokenizer = load_for_inference(folder)
prompt = torch.tensor(encode_prompt(tokenizer, "tom has 7 apples . buys 3 . gives 2 . how many ?"))
(answer,) = generate(model, tokenizer, [prompt], decoder, batch_size=1)
import cd4lm, evaluation.metrics.gsm8k as gsm8k, cd4lm.data.gsm8k_numbers as numbers
assert len(numbers.pool().known) > 1000  # its templates are data of the package
print(answer.text, "|", cd4lm.__file__, "|", gsm8k.score({"answer": "#### 8"}, answer.text))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder, source = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("source")
    for name in ("src", "evaluation", "pyproject.toml", "README.md", "LICENSE"):  # setuptools leaves files beside these
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    words = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        str(source),
        "-w",
        folder,
    ]
    done = subprocess.run(words, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    return next(folder.glob("cd4lm-*.whl"))


@pytest.mark.slow
def test_a_wheel_decodes_in_an_environment_of_its_own(wheel, tmp_path):
    """Its dependencies are those of this environment, put behind its own packages; the repository is not in sight."""
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env/bin/python"
    place = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"], capture_output=True, text=True
    ).stdout.strip()
    zipfile.ZipFile(wheel).extractall(place)
    with open(f"{place}/dependencies.pth", "w") as file:
        file.write(sysconfig.get_paths()["purelib"] + "\n")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    words = [python, "-c", DECODE, str(ROOT / "checkpoints/tiny_teacher")]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    text, home, right = (part.strip() for part in done.stdout.split("|"))
    assert text.endswith("#### 8") and home.startswith(str(tmp_path)) and right == "True"


@pytest.mark.slow
def test_the_wheel_has_what_it_needs_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    files = (
        "dllm_eval/tasks/dllm_gsm8k.yaml",
        "trace_page/page.html",
        "study/page.md",
        "protocols/field.yaml",
        "published.yaml",
    )
    for wanted in ("cd4lm/py.typed", *(f"evaluation/{file}" for file in files)):
        assert wanted in names
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"cd4lm", "cd4lm_vllm", "evaluation"}
    packages = {path.parent.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src").rglob("*.py")}
    assert packages == {name.rpartition("/")[0] for name in names if name.startswith("cd4lm") and name.endswith(".py")}
    (entries,) = (name for name in names if name.endswith("entry_points.txt"))
    assert "[vllm.general_plugins]\ncd4lm = cd4lm_vllm:register" in zipfile.ZipFile(wheel).read(entries).decode()


def distributions(lines: list[str]) -> set[str]:
    return {re.match(r"[\w.-]+", line)[0].lower().replace("-", "_") for line in lines}


def test_everything_that_is_imported_is_asked_for():
    """What a module of the package imports at its top is a dependency; what a function imports, of an extra at least.

    vLLM loads cd4lm_vllm, so there it is one.
    """
    base = distributions(PROJECT["dependencies"])
    extras = {name for lines in PROJECT["optional-dependencies"].values() for name in distributions(lines)}
    known = {MODULES.get(name, name) for name in base | extras} | {"bitsandbytes"}
    for path in (ROOT / "src").rglob("*.py"):
        tree, ours = ast.parse(path.read_text()), {"cd4lm"}
        if path.is_relative_to(ROOT / "src/cd4lm_vllm"):
            ours |= {"cd4lm_vllm", "vllm"}
        for node in ast.walk(tree):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module] if isinstance(node, ast.ImportFrom) else []
            for module in (m.split(".")[0] for m in modules):
                if module in sys.stdlib_module_names or module in ours:
                    continue
                allowed = {MODULES.get(name, name) for name in base} if node in tree.body else known
                lazily = (
                    path.name == "lora.py" and module == "peft"
                )  # imported by functions, where adapters are asked for
                assert module in allowed or lazily, f"{path.relative_to(ROOT)} imports {module}"
