"""How much of the machine its host took: told where the system tells, and beside every figure."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from loadtest import ledger
from loadtest.stolen import STAT, Ticks, stolen_share


@pytest.mark.parametrize(
    ("stat", "wanted"),
    [
        ("cpu  10 1 4 500 9 0 5 30 0 0\ncpu0 1 1", Ticks(50, 30)),
        ("cpu  10 1 4 500", None),
        ("cpu  x", None),
        ("", None),
    ],
)
def test_ticks(stat: str, wanted: Ticks | None, tmp_path: Path) -> None:
    """Idle time and waiting for disks are wanted by nobody; what cannot be read is not known."""
    (tmp_path / "stat").write_text(stat)
    assert Ticks.now(tmp_path / "stat") == wanted
    assert Ticks.now(tmp_path / "nowhere") is None


@pytest.mark.skipif(sys.platform != "linux", reason=f"{STAT} is Linux'")
def test_this_machine() -> None:
    """The counters only grow."""
    before, after = Ticks.now(), Ticks.now()
    assert before is not None
    assert after is not None
    assert 0 <= before.stolen <= after.stolen
    assert before.wanted <= after.wanted


def test_share() -> None:
    """Of what was wanted in between; not known where nothing was, or nobody tells."""
    before, after = Ticks(100, 10), Ticks(300, 60)
    assert stolen_share(before, after) == 0.25
    assert stolen_share(before, before) is None
    assert stolen_share(None, after) is None


@pytest.mark.parametrize(
    ("share", "said"), [(0.254, ["25% of their time taken by the host"]), (None, [])]
)
def test_it_stands_beside_the_figures(share: float | None, said: list[str]) -> None:
    """In the sentence on where they come from; nothing where it is not known."""
    report = ledger.signed({"kind": "bench"}, "quiet", share)
    words = ledger.origin(report).rstrip(".").split(", ")
    assert [word for word in words if "host" in word or "None" in word] == said
