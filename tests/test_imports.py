"""Imports point one way, and the engine knows neither transformers nor a tokenizer."""

import ast
import sys

from tests.conftest import ROOT

# Each room may import itself and what stands here.
ALLOWED = {
    "src/diffusion": {"src.diffusion"},
    "src/model": {"src.model", "src.diffusion"},
    "src/data": {"src.data", "src.config", "src.settings"},
    "src/decoding": {"src.decoding", "src.diffusion"},
    "src/training": {
        "src.training",
        "src.decoding",
        "src.data",
        "src.model",
        "src.diffusion",
        "src.config",
        "src.settings",
    },
    "src": {"src.config"},
    "evaluation/metrics": {"evaluation.metrics"},
    "evaluation": {"evaluation", "src"},
    "scripts": {"scripts", "evaluation", "src"},
}
STANDARD_LIBRARY_ONLY = ("evaluation/metrics",)
# Equality of formulas is a project of its own; it is loaded in one worker process, and only where it is asked for.
ALSO_ALLOWED = {"evaluation/metrics/math_equality.py": {"math_verify"}}
SANDBOX_OWN = {"driver", "program", "filter", "landlock"}  # inside the sandbox its files are all there is
TORCH_ONLY = ("src/diffusion", "src/decoding")
OURS = ("src", "evaluation", "scripts", "tests")


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


def test_metrics_use_the_standard_library_only():
    for path in files():
        if room_of(path) in STANDARD_LIBRARY_ONLY:
            name = path.relative_to(ROOT).as_posix()
            own = {"evaluation"} | (SANDBOX_OWN if path.parent.name == "sandbox" else set())
            third = {n.split(".")[0] for n in imports(path)} - sys.stdlib_module_names - own
            assert third <= ALSO_ALLOWED.get(name, set()), f"{name} imports {third}"


def test_every_script_finds_the_repository_by_itself():
    """`python scripts/x.py` puts only its own folder on the path: the root must follow before the first import of ours."""
    for path in [
        *(ROOT / "scripts").glob("*.py"),
        ROOT / "evaluation/evaluation_script.py",
        ROOT / "evaluation/plot_runs.py",
    ]:
        text = path.read_text()
        ours = [
            i for i, line in enumerate(text.splitlines()) if line.startswith(tuple(f"from {name}" for name in OURS))
        ]
        if "__main__" in text and ours:
            assert any("sys.path.insert" in line for line in text.splitlines()[: ours[0]]), path
