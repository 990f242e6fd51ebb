"""Writes the requirement files from pyproject.toml and what is installed beside this Python.

Run it as `python requirements/compile.py`, in an environment made with `pip install -e
'.[cpu,train,load,plots,otel,docs,dev]'`. Every file pins the direct requirements of one use and
whatever they need in turn, at the installed versions.
"""

from __future__ import annotations

import tomllib
from importlib.metadata import distribution, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HERE = Path(__file__).parent
HEADER = "# {title}\n# Made by `python requirements/compile.py`; edit pyproject.toml instead.\n"

# Each file: its title, the extra it stands for, and the files that it starts from.
FILES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "serve": ("What `marmot serve` needs, on the CPU.", "cpu", ()),
    "train": ("What training and export need as well.", "train", ("serve",)),
    "load": ("What the Locust users need as well.", "load", ("serve",)),
    "plots": ("What pictures need as well.", "plots", ("serve",)),
    "otel": ("What traces need as well.", "otel", ("serve",)),
    "ray": ("What work on a Ray cluster needs as well.", "ray", ("serve",)),
    "docs": ("What the site of docs/ needs as well.", "docs", ("serve",)),
    "dev": (
        "What the checks and the tests need as well.",
        "dev",
        ("train", "load", "plots", "otel", "docs"),
    ),
}


def main() -> None:
    """Writes every file."""
    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    pinned: dict[str, set[str]] = {}
    for name, (title, extra, bases) in FILES.items():
        wanted = [*(project["dependencies"] if not bases else []), *extras[extra]]
        # Whatever installs these files has a pip of its own.
        closure = _closure([Requirement(line) for line in wanted]) - {"pip"}
        below = set[str]().union(*(pinned[base] for base in bases))
        pinned[name] = closure | below
        lines = [f"-r {base}.txt" for base in bases]
        # A local label such as +cpu names a build that not every index has.
        lines += [f"{found}=={version(found).split('+')[0]}" for found in sorted(closure - below)]
        text = HEADER.format(title=title) + "\n".join(lines) + "\n"
        (HERE / f"{name}.txt").write_text(text)


def _closure(wanted: list[Requirement]) -> set[str]:
    """The names of all that `wanted` needs on this machine, directly or not."""
    found: set[str] = set()
    seen: set[tuple[str, str]] = set()
    while wanted:
        requirement = wanted.pop()
        name = canonicalize_name(requirement.name)
        for extra in ("", *sorted(requirement.extras)):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            found.add(name)
            needs = map(Requirement, distribution(name).requires or [])
            wanted += [
                need
                for need in needs
                if need.marker is None or need.marker.evaluate({"extra": extra})
            ]
    return found


if __name__ == "__main__":
    main()
