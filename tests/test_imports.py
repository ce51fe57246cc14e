"""Imports point one way, and the engine knows neither transformers nor a tokenizer."""

import ast
import re

from tests.conftest import ROOT

# Each room may import itself and what stands here.
ALLOWED = {
    "src/cd4lm/diffusion": {"cd4lm.diffusion"},
    "src/cd4lm/model": {"cd4lm.model", "cd4lm.diffusion", "cd4lm.io"},
    "src/cd4lm/data": {"cd4lm.data", "cd4lm.model", "cd4lm.config", "cd4lm.io", "cd4lm.settings"},
    "src/cd4lm/decoding": {
        "cd4lm.decoding",
        "cd4lm.data",
        "cd4lm.model",
        "cd4lm.diffusion",
        "cd4lm.config",
        "cd4lm.io",
    },
    "src/cd4lm/training": {"cd4lm"},
    "src/cd4lm": {
        "cd4lm.config",
        "cd4lm.io",
        "cd4lm.objectives",
        "cd4lm.settings",
        "cd4lm.decoding.options",
        "cd4lm.data.gsm8k_numbers",
        "cd4lm.data.tiny_task",
    },
    "src/cd4lm_vllm": {"cd4lm_vllm", "cd4lm.decoding", "cd4lm.data", "cd4lm.model", "cd4lm.diffusion", "cd4lm.config"},
    "evaluation/metrics": {"evaluation.metrics", "evaluation.intervals", "cd4lm.config", "cd4lm.data.rows"},
    "evaluation": {"evaluation", "cd4lm"},
    "scripts": {"evaluation", "cd4lm"},
}
TORCH_ONLY = ("src/cd4lm/diffusion", "src/cd4lm/decoding")
OURS = ("cd4lm", "cd4lm_vllm", "evaluation", "scripts", "tests")


def imports(path) -> set[str]:
    """Dotted names of the modules a file imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def room_of(path) -> str:
    relative = path.relative_to(ROOT).as_posix()
    return max((room for room in ALLOWED if relative.startswith(room + "/")), key=len)


def files() -> list:
    found = [p for top in ("src", "evaluation", "scripts") for p in (ROOT / top).rglob("*.py")]
    assert len(found) > 30
    return found


def test_imports_point_one_way():
    for path in files():
        allowed = ALLOWED[room_of(path)]
        for name in imports(path):
            if name.split(".")[0] in OURS:
                inside = any(name == a or name.startswith(a + ".") for a in allowed)
                assert inside, f"{path.relative_to(ROOT)} imports {name}"


def test_torch_only_rooms():
    for path in files():
        if room_of(path) in TORCH_ONLY:
            third = {n.split(".")[0] for n in imports(path)} & {
                "transformers",
                "tokenizers",
                "datasets",
                "numpy",
                "peft",
            }
            assert not third, f"{path.relative_to(ROOT)} imports {third}"


def test_nothing_needs_vllm_but_its_own_package():
    """It is installed in few environments, so neither it nor what stands on it is imported elsewhere."""
    for path in files():
        if room_of(path) != "src/cd4lm_vllm":
            found = {name.split(".")[0] for name in imports(path)} & {"vllm", "cd4lm_vllm"}
            assert not found, f"{path.relative_to(ROOT)} imports {found}"


def test_the_package_does_not_name_evaluation():
    """Not even in a string: what it loads by name is given to it."""
    for path in (ROOT / "src").rglob("*.py"):
        found = re.search(r"(?<![\w.])evaluation[./]\w", path.read_text())
        assert found is None, f"{path.relative_to(ROOT)} names {found[0]}"
