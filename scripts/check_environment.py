"""Exit 0 if this interpreter has what pyproject.toml asks for in fitting versions, else name the first that is missing.

python scripts/check_environment.py train,eval      # the dependencies and those of the extras named
python scripts/check_environment.py train --package # and the package itself, installed from this folder
"""

import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    from pip._vendor import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]


def required(extras: list[str]) -> list[str]:
    """The requirements of the project and of its extras; an extra may name others as cd4lm[a,b]."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found, waiting = list(project["dependencies"]), list(extras)
    while waiting:
        for line in project["optional-dependencies"][waiting.pop()]:
            if line.startswith("cd4lm["):
                waiting += line[len("cd4lm[") : -1].split(",")
            else:
                found.append(line)
    return found


def missing(extras: list[str]) -> str | None:
    """The first requirement that is not met, or None."""
    from packaging.requirements import Requirement  # comes with transformers; without it nothing is installed yet

    for line in required(extras):
        requirement = Requirement(line)
        try:
            if not requirement.specifier.contains(version(requirement.name), prereleases=True):
                return line
        except PackageNotFoundError:
            return line
    return None


def package_is_here() -> bool:
    """Whether `import cd4lm` finds this repository's."""
    sys.path.pop(0)  # this script's folder
    spec = find_spec("cd4lm")
    return spec is not None and Path(spec.origin).resolve().is_relative_to(ROOT)


if __name__ == "__main__":
    lacks = missing([name for name in sys.argv[1].split(",") if name])
    if lacks is None and "--package" in sys.argv and not package_is_here():
        lacks = "cd4lm, installed from this folder"
    sys.exit(lacks)
