"""History that counts, behind the door: late feedback decides, and the timeline keeps all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.bundles import ITEMS, make_bundle
from tests.laws.world import CANDIDATES, Posted, World, scores_of
from tests.servers import Running

LONG = {"depth": 2, "window": 4, "history": 60, "search": 4}
KINDS: dict[str, dict[str, Any]] = {
    "marm": {"depth": 3, "window": 6},
    "search by category": LONG,
    "search by attention": {**LONG, "search_by": "attention"},
    "sim": {**LONG, "family": "sim", "depth": 1},
    "din": {"family": "din", "depth": 1, "window": 6},
    "stca": {"family": "stca", "depth": 2, "window": 6},
    "full": {"family": "full", "depth": 2, "window": 6},
}
NOW = 100_000


def silent(user: str, count: int) -> list[Posted]:
    """Events that everything is known of but the one thing that counts."""
    said: list[dict[str, int]] = [{}, {"like": 1}, {"like": 0, "share": 0}, {"share": 0}]
    return [
        {
            "user_id": user,
            "item_id": (7 * at) % len(ITEMS),
            "timestamp": 1_000 + 60 * at,
            "feedback": said[at % 4],
        }
        for at in range(count)
    ]


@pytest.mark.parametrize(
    ("kind", "count"), [*((kind, 30) for kind in KINDS), ("marm", 3), ("search by category", 3)]
)
def test_late_feedback_decides(
    serve: Callable[..., Running], tmp_path: Path, kind: str, count: int
) -> None:
    """Events that do not count leave scores as a cold user's, and are kept; a late label of one of
    them is heard by the next request, and its withdrawal is, too."""
    bundle = make_bundle(tmp_path / "bundle", **KINDS[kind], history_where="share")
    world = World(serve(bundle=bundle), bundle)
    cold = scores_of(world.running.rank("nobody", CANDIDATES, timestamp=NOW))
    events = silent("u", count)
    world.running.post(*events)
    for _ in range(3):  # as a stranger, and as one who comes again
        answer = world.check("u", events, NOW)
        assert np.abs(scores_of(answer) - cold).max() <= 1e-6
        assert answer["cache"]["records"] > 0
    assert len(world.running.timeline("u")["events"]) == count
    for place, share in ((count - 1, 1), (count - 3, 1), (count - 1, 0), (count - 3, 0)):
        late = {**events[place], "feedback": {"share": share}, "feedback_timestamp": NOW - share}
        (result,) = world.running.post(late)
        assert result["status"] == "updated"
        events.append(late)
        for _ in range(2):
            answer = world.check("u", events, NOW)
    assert np.abs(scores_of(answer) - cold).max() <= 1e-6
    sent = [{**event, "user_id": None} for event in silent("u", count)]
    inline = [{name: part for name, part in event.items() if part is not None} for event in sent]
    answer = world.running.rank("whoever", CANDIDATES, timestamp=NOW, history=inline)
    assert np.abs(scores_of(answer) - cold).max() <= 1e-6


def test_one_that_counts_is_found_among_many(
    serve: Callable[..., Running], until: Callable[..., Any], tmp_path: Path
) -> None:
    """A search finds the one event that counts behind more than it looks for that do not, and the
    full computation behind the answer says the same."""
    for by in ("category", "attention"):
        fields = {**LONG, "search_by": by, "history_where": "share"}
        bundle = make_bundle(tmp_path / by, **fields)
        cache = f"lmdb:{tmp_path}/{by}-cache"
        world = World(serve(bundle=bundle, cache=cache, truth_share=1.0), bundle)
        events = silent("u", 50)
        events[2]["feedback"] = {"share": 1}
        world.running.post(*events)
        cold = scores_of(world.running.rank("nobody", CANDIDATES, timestamp=NOW))
        assert np.abs(scores_of(world.check("u", events, NOW)) - cold).max() > 1e-4
        until(lambda at=world: 'result="equal"} 1.0' in at.running.client.get("/metrics").text)
