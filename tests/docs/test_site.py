"""The site of docs/ builds without a warning and asks nobody else for anything."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.servers import ROOT

#: What a browser fetches by itself; a link is followed by a person.
FETCHED = re.compile(
    r"<(?:script|img|iframe|source|link(?=[^>]*\brel=\"?(?:stylesheet|preload|preconnect|icon)))"
    r"[^>]*\b(?:src|href)=\"?((?:https?:)?//[^\" >]+)"
)
IMPORTED = re.compile(r"(?:url\([\"']?|@import [\"'])((?:https?:)?//[^\"')]+)")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(ROOT / "docs", folder / "docs")
    shutil.copy(ROOT / "zensical.toml", folder)
    built = subprocess.run(  # noqa: S603
        [str(Path(sys.executable).with_name("zensical")), "build", "--strict"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return folder / "build" / "site"


def test_every_page_is_on_the_site(site: Path) -> None:
    """Every page of docs/ is in the navigation, and built."""
    pages = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").glob("**/*.md")}
    nav = str(tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"])
    assert set(re.findall(r"[\w/-]+\.md", nav)) == pages
    assert all((site / page).with_suffix(".html").is_file() for page in pages)


def test_nobody_else_is_asked(site: Path) -> None:
    """No page or style fetches from another host, nor holds what a script would fetch for."""
    for file in [*site.glob("**/*.html"), *site.glob("**/*.css")]:
        text = file.read_text()
        found = FETCHED.findall(text) + IMPORTED.findall(text)
        assert not found, f"{file.relative_to(site)}: {found}"
        assert 'class="mermaid"' not in text  # drawn by a script from a far host
