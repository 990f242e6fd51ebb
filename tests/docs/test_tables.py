"""Tables in the docs say what the code says."""

from __future__ import annotations

import re

import typer.main
from typer.testing import CliRunner

from service.marmot import build
from tests.docs.tables import FIGURES, HTTP, README, SETTINGS, defaults, problems

ROW = re.compile(r"^\| `(MARMOT_\w+)` \| (?:`(--[\w-]+)`)? ?\| (.*?) \| .+ \|$", re.MULTILINE)


def test_problems() -> None:
    """Every type, status and title of a problem; `python -m tests.docs.tables` writes them."""
    assert problems() in HTTP.read_text()


def test_figures() -> None:
    """The README's figures are those that `marmot bench --out` kept, as `marmot table` shows."""
    shown = CliRunner().invoke(build(), ["table", str(FIGURES), "--short"])
    assert shown.exit_code == 0, shown.output
    assert shown.stdout in README.read_text()


def test_settings() -> None:
    """Every variable has a row with its option and its default, and there are no others."""
    rows = {name: (option, default) for name, option, default in ROW.findall(SETTINGS.read_text())}
    serve = typer.main.get_command(build()).commands["serve"]
    options = {f"MARMOT_{each.name.upper()}": each.opts[0] for each in serve.params}
    assert rows == {name: (options.get(name, ""), default) for name, default in defaults().items()}
