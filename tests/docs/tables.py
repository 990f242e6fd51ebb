"""Tables that pages take from the code; `python -m tests.docs.tables` writes them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from loadtest import ledger
from loadtest.short_tables import short
from service.errors import Problem
from service.settings import Settings
from tests.servers import ROOT

HTTP = ROOT / "docs" / "http.md"
SETTINGS = ROOT / "docs" / "settings.md"
README = ROOT / "README.md"
FIGURES = ROOT / "docs" / "figures" / "bench.json"


def problems() -> str:
    """Status, type and title of every problem, by status."""
    kinds = {(kind.status, kind.slug): kind for kind in _below(Problem)}
    rows = [
        f"| {status} | `/problems/{slug}` | {kind.title} |"
        for (status, slug), kind in sorted(kinds.items())
    ]
    return "\n".join(["| status | `type` | `title` |", "|---|---|---|", *rows]) + "\n"


def figures() -> str:
    """What `marmot table docs/figures/bench.json --short` prints."""
    return short(ledger.read(FIGURES)) + "\n"


def _below(kind: type[Problem]) -> Iterator[type[Problem]]:
    yield kind
    for each in kind.__subclasses__():
        yield from _below(each)


def defaults() -> dict[str, str]:
    """Variable -> its default, as the page writes it."""
    return {
        f"MARMOT_{name.upper()}": _shown(field.default)
        for name, field in Settings.model_fields.items()
        if name != "worker_metrics_dir"  # between parent and workers, for nobody else
    }


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(int(value) if value == int(value) else value)
    return f"`{value}`"


def _write(page: Path, name: str, text: str) -> None:
    between = re.compile(rf"(<!-- begin: {name}[^\n]*\n).*?(?=<!-- end)", re.DOTALL)
    page.write_text(between.sub(lambda found: found[1] + text, page.read_text()))


if __name__ == "__main__":
    _write(HTTP, "problems", problems())
    _write(README, "figures", figures())
