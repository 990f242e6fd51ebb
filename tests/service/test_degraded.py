"""What an answer says when a part of the history is gone, over HTTP on both stores."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from tests.stored import cells, drop, is_record, put

ITEMS = list(range(20))
KEEP = 40
LAW = 1e-4  # law 1 for float32


def events_of(count: int, start: int = 0) -> list[dict[str, Any]]:
    """One every ten seconds."""
    return [
        {
            "user_id": "u",
            "item_id": (7 * at) % 30,
            "timestamp": 10 * at,
            "feedback": {"like": at % 2},
        }
        for at in range(start, start + count)
    ]


def inline(running: Any, events: list[dict[str, Any]], timestamp: int) -> np.ndarray:
    """Scores from these events alone."""
    history = [{name: event[name] for name in event if name != "user_id"} for event in events]
    answer = running.rank("other", ITEMS, timestamp=timestamp, history=history)
    return np.array(answer["scores"]["like"])


def counted(running: Any, metric: str) -> float:
    found = re.search(re.escape(metric) + r" (\S+)", running.client.get("/metrics").text)
    return float(found[1]) if found else 0.0


@pytest.mark.parametrize(
    "running", [(store, {"keep": KEEP}) for store in ("lmdb", "redis")], indirect=True, ids=str
)
def test_what_was_trimmed_is_missed(running: Any) -> None:
    """An answer that needs trimmed events says so, is counted, and leaves no row behind."""
    window = running.house.registry.active.spec.window
    events = events_of(KEEP + 30)
    running.post(*events)
    kept = events[-KEEP:]
    now, then, before = kept[-1]["timestamp"], kept[window + 1]["timestamp"], kept[0]["timestamp"]
    for cell in filter(is_record, cells(running)):
        drop(running, cell)
    for timestamp, known in ((then, kept[: window + 2]), (before - 1, [])):
        for _ in range(2):
            answer = running.rank("u", ITEMS, timestamp=timestamp)
            assert answer["degraded"] == ["history-trimmed"]
            found = np.array(answer["scores"]["like"])
            assert np.abs(found - inline(running, known, timestamp)).max() <= LAW
    assert not any(map(is_record, cells(running)))
    assert counted(running, 'marmot_rank_degraded_total{reason="history-trimmed"}') == 4
    assert running.rank("u", ITEMS, timestamp=now)["degraded"] == []


@pytest.mark.parametrize("first", ["rank", "post"])
def test_what_was_damaged_is_put_aside(running: Any, first: str) -> None:
    """A damaged timeline is cold, said and counted; it is kept, and the user goes on without it."""
    before = running.post(*events_of(40))[-1]["version"]
    cell, value = max((c, v) for c, v in cells(running).items() if v.startswith(b"mT"))
    damaged = value[:50] + bytes([value[50] ^ 1]) + value[51:]
    put(running, cell, damaged)
    if first == "rank":
        answer = running.rank("u", ITEMS, timestamp=1_000)
        assert (answer["cache"]["state"], answer["cache"]["version"]) == ("cold", 0)
        assert answer["degraded"] == ["history-quarantined"]
        assert np.abs(answer["scores"]["like"] - inline(running, [], 1_000)).max() <= LAW
        assert counted(running, 'marmot_rank_degraded_total{reason="history-quarantined"}') == 1
    anew = events_of(20, start=50)
    results = running.post(*anew)
    assert {result["status"] for result in results} == {"appended"}
    assert results[0]["version"] > before
    assert counted(running, 'marmot_store_events_total{event="damaged_timeline"}') == 1
    assert len(running.timeline("u")["events"]) == len(anew)
    answer = running.rank("u", ITEMS, timestamp=1_000)
    assert (answer["cache"]["state"], answer["degraded"]) == ("hit", ["history-quarantined"])
    assert np.abs(answer["scores"]["like"] - inline(running, anew, 1_000)).max() <= LAW
    assert damaged in cells(running).values()
    assert running.client.delete("/v1/users/u").status_code == 204
    assert damaged not in cells(running).values()
    assert running.rank("u", ITEMS, timestamp=1_000)["degraded"] == []
