"""Tables that pages take from the code; `python -m tests.docs.tables` writes that of problems."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from service.errors import Problem
from service.settings import Settings
from tests.servers import ROOT

HTTP = ROOT / "docs" / "http.md"
SETTINGS = ROOT / "docs" / "settings.md"
_BETWEEN = re.compile(r"(?<=<!-- begin: problems)([^\n]*\n).*?(?=<!-- end)", re.DOTALL)


def problems() -> str:
    """Status, type and title of every problem, by status."""
    kinds = {(kind.status, kind.slug): kind for kind in _below(Problem)}
    rows = [
        f"| {status} | `/problems/{slug}` | {kind.title} |"
        for (status, slug), kind in sorted(kinds.items())
    ]
    return "\n".join(["| status | `type` | `title` |", "|---|---|---|", *rows]) + "\n"


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


if __name__ == "__main__":
    HTTP.write_text(_BETWEEN.sub(lambda found: found[1] + problems(), HTTP.read_text()))
