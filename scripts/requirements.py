"""Prints the pinned packages of pyproject.toml: `python -m scripts.requirements "EXTRA EXTRA"`, for `pip install -r`.

An image installs them without the code, so that a change of the code leaves that layer, the big one, as it was. Needs
nothing but Python itself.
"""

import sys
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"


def requirements(extras: list[str]) -> list[str]:
    """Those of the project and of these extras. Raises ValueError for an extra that there is not."""
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    optional = project["optional-dependencies"]
    for extra in extras:
        if extra not in optional:
            raise ValueError(f"There is no extra {extra!r}; pyproject.toml has {', '.join(sorted(optional))}.")
    return [*project["dependencies"], *(requirement for extra in extras for requirement in optional[extra])]


if __name__ == "__main__":
    print(*requirements(" ".join(sys.argv[1:]).split()), sep="\n")
