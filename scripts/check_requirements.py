"""Exit 0 if this interpreter has every package of a requirements file in a fitting version, else name the first.

python scripts/check_requirements.py requirements.txt
"""

import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def missing(path: Path) -> str | None:
    """The first requirement that is not met, or None."""
    from packaging.requirements import Requirement  # comes with transformers; without it nothing is installed yet

    for line in path.read_text().splitlines():
        line = line.partition("#")[0].strip()
        if line.startswith("-r "):
            found = missing(path.parent / line[3:].strip())
            if found:
                return found
        elif line:
            requirement = Requirement(line)
            try:
                if not requirement.specifier.contains(version(requirement.name), prereleases=True):
                    return line
            except PackageNotFoundError:
                return line
    return None


if __name__ == "__main__":
    sys.exit(missing(Path(sys.argv[1])))
