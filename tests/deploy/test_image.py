"""The image's recipe, as far as it can be judged without building it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.deploy.manifests import ROOT

DOCKERFILE = ROOT / "Dockerfile"


def test_no_smell() -> None:
    """hadolint finds nothing to say."""
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run(  # noqa: S603
        [hadolint, DOCKERFILE], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_one_base() -> None:
    """Every stage starts from the base that was asked for: it holds the Python that both share."""
    stages = re.findall(r"^FROM (\S+)", DOCKERFILE.read_text(), re.MULTILINE)
    assert stages == ["${BASE}"] * 2


def test_context() -> None:
    """What is copied is let into the build by .dockerignore, and nothing else is."""
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    let_in = {line[1:] for line in ignore if line.startswith("!")}
    lines = re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE.read_text(), re.MULTILINE)
    copied = {source for line in lines for source in line.split()}
    assert ignore[0] == "*"
    assert let_in == copied
    assert all((ROOT / source).exists() for source in copied)


def test_runs_without_a_shell() -> None:
    """Nothing that runs in the image is a line for a shell, and it runs as nobody in particular."""
    _, last = DOCKERFILE.read_text().rsplit("FROM ", 1)
    for word in ("CMD", "ENTRYPOINT"):
        for command in re.findall(rf"^ *{word} (.*)$", last, re.MULTILINE):
            assert command.startswith("[")
    assert not re.search(r"^RUN", last, re.MULTILINE)
    assert "USER 10001:10001" in last


def test_tells_nobody() -> None:
    """ONNX Runtime would send its maker what it runs, unless it is told not to."""
    assert "ORT_DISABLE_TELEMETRY=1" in DOCKERFILE.read_text()
