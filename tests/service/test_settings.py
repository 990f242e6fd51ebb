"""Settings: the environment, and the command line over it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import service
from service.errors import UsageError
from service.settings import read_settings


def test_the_command_line_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    """An option overrides its variable, which overrides the default."""
    monkeypatch.setenv("MARMOT_PORT", "9000")
    assert read_settings().port == 9000
    assert read_settings(port=9001, keep=None).port == 9001


def test_a_bad_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A value that does not fit is refused in a sentence with the setting's name; exit code 2."""
    monkeypatch.setenv("MARMOT_BODY_LIMIT_BYTES", "much")
    with pytest.raises(UsageError, match="MARMOT_BODY_LIMIT_BYTES") as caught:
        read_settings()
    assert caught.value.exit_code == 2


def test_nothing_else_reads_the_environment() -> None:
    """Only settings.py knows the environment; host.py only tells Prometheus its folder."""
    for file in Path(service.__file__).parent.rglob("*.py"):
        found = re.findall(r"os\.environ|getenv", file.read_text())
        assert not found or file.name == "host.py", file
