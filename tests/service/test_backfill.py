"""A file of many parts into a store."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from models import event_parts
from service.backfill import backfill
from service.house import open_model, open_store
from service.settings import read_settings


async def test_parts_are_recorded_one_after_the_other(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every user is there with all events, once; a second run changes nothing; progress goes on."""
    monkeypatch.setattr(event_parts, "ROWS_PER_PART", 50)
    path = tmp_path / "events.csv"
    rows = [f"u{(7 * row) % 30},{row % 60},{row},{row % 2}\n" for row in range(600)]
    path.write_text("user_id,item_id,timestamp,like\n" + "".join(rows))
    settings = read_settings(bundle=tiny_bundle, cache=f"lmdb:{tmp_path}/cache")
    shown: list[tuple[int, int]] = []
    async with AsyncExitStack() as stack:
        model = open_model(settings, stack)
        cache = await open_store(settings, model)
        stack.push_async_callback(cache.close)
        first, second = [
            await backfill(model, cache, path, lambda *done: shown.append(done)) for _ in range(2)
        ]
        assert (first.users, first.events, first.statuses) == (30, 600, {"appended": 600})
        assert second.statuses == {"duplicate": 600}
        for user in range(30):
            found = await cache.fetch(f"u{user}", limit=100, layout=model.layout)
            assert len(found.timeline) == 20
            assert found.valid[-model.spec.reach :].all()
    half = shown[: len(shown) // 2]
    assert half == sorted(half)
    assert half[-1][0] == half[-1][1]
