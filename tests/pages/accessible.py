"""What axe-core has to say of a page."""

from __future__ import annotations

from typing import Any

import pytest

SERIOUS = {"serious", "critical"}
#: Rows are all alike, and axe-core takes its time for each.
SHORTEN = """document.querySelectorAll("tbody tr:nth-child(n + 4), #timeline li:nth-child(n + 6)")
  .forEach((row) => row.remove())"""


def serious(page: Any, **options: Any) -> list[tuple[str, str]]:
    """What axe-core finds serious, and where first; rows like those above them go first."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page.evaluate(SHORTEN)
    return [
        (violation["id"], violation["nodes"][0]["html"])
        for violation in axe.run(page, options=options).response["violations"]
        if violation["impact"] in SERIOUS
    ]
