"""The requirement files say what pyproject.toml says, and name no place to get it from."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
FILES = sorted((ROOT / "requirements").glob("*.txt"))


def _pins(name: str) -> dict[str, str]:
    """Package -> version, of one file and those it starts from."""
    pins: dict[str, str] = {}
    for line in (ROOT / "requirements" / f"{name}.txt").read_text().splitlines():
        if base := re.fullmatch(r"-r (\w+)\.txt", line):
            pins |= _pins(base[1])
        elif not line.startswith("#"):
            package, version = line.split("==")
            assert package not in pins, f"{package} is pinned twice"
            pins[package] = version
    return pins


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("serve", [*PROJECT["dependencies"], *EXTRAS["cpu"]]),
        ("train", [*PROJECT["dependencies"], *EXTRAS["train"]]),
        ("load", [*PROJECT["dependencies"], *EXTRAS["load"]]),
        ("otel", [*PROJECT["dependencies"], *EXTRAS["otel"]]),
        ("ray", [*PROJECT["dependencies"], *EXTRAS["ray"]]),
        ("plots", [*PROJECT["dependencies"], *EXTRAS["plots"]]),
        ("docs", [*PROJECT["dependencies"], *EXTRAS["docs"]]),
        (
            "dev",
            [
                *PROJECT["dependencies"],
                *EXTRAS["train"],
                *EXTRAS["load"],
                *EXTRAS["plots"],
                *EXTRAS["otel"],
                *EXTRAS["docs"],
                *EXTRAS["dev"],
            ],
        ),
    ],
)
def test_agreement(name: str, wanted: list[str]) -> None:
    """Every direct requirement is pinned in the file of its use, to a version it allows."""
    pins = _pins(name)
    for line in wanted:
        requirement = Requirement(line)
        version = pins[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{line}, but {name}.txt has {version}"


def test_serving_is_lean() -> None:
    """Serving installs neither torch nor what exports or trains, and one runtime only."""
    pins = _pins("serve")
    assert not {"torch", "onnx", "onnxscript", "safetensors", "locust", "matplotlib"} & set(pins)
    assert "onnxruntime" in pins
    assert "onnxruntime-gpu" not in pins


def test_runtimes_agree() -> None:
    """The two runtimes are of one version: the image swaps one line for the other."""
    (cpu,), (gpu,) = EXTRAS["cpu"], EXTRAS["gpu"]
    assert cpu.split("==")[1] == gpu.split("==")[1]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_form(file: Path) -> None:
    """A line is a comment, another file or `name==version`: no host, no path, no option."""
    for line in file.read_text().splitlines():
        assert re.fullmatch(r"#.*|-r \w+\.txt|[a-z0-9-]+==[0-9a-z.]+", line), line
        assert "://" not in line
