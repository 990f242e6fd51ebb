"""A file of many parts into a store."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from redis import Redis

from models import event_parts
from service.backfill import backfill
from service.house import open_model, open_store
from service.settings import read_settings
from tests.servers import Command, RedisServer, flush, wait_until


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


def test_goes_on_where_it_was_killed(
    marmot: Callable[..., Command],
    cli: Callable[..., tuple[int, str, str]],
    redis_server: RedisServer,
    tiny_bundle: Path,
    tmp_path: Path,
) -> None:
    """Killed in the middle and taken up again, the store is as if nothing had happened."""
    path = tmp_path / "events.csv"
    rows = [f"u{row % 40},{7 * row % 60},{row},{row % 2},{row % 3 % 2}\n" for row in range(1_200)]
    path.write_text("user_id,item_id,timestamp,like,share\n" + "".join(rows))
    whole, parts = f"{redis_server.url[:-1]}1", f"{redis_server.url[:-1]}2"
    flush(whole)
    flush(parts)
    command = ["backfill", "--bundle", tiny_bundle, "--events", path, "--cache"]
    resumed = [*command, parts, "--resume", tmp_path / "progress"]
    killed = marmot(*resumed)
    with Redis.from_url(parts) as redis:
        wait_until(lambda: redis.dbsize() > 30)
    killed.send(signal.SIGKILL)
    killed.ends()
    for words in ([*command, whole], resumed):
        code, _, err = cli(*words)
        assert code == 0, err
    keys, timelines, records = asyncio.run(_stored(tiny_bundle, whole))
    found, same, close = asyncio.run(_stored(tiny_bundle, parts))
    assert (found, same) == (keys, timelines)
    assert np.abs(close - records).max() <= 1e-4


async def _stored(bundle: Path, url: str) -> tuple[set[bytes], Any, Any]:
    """Every key, every timeline, and every record as numbers."""
    async with AsyncExitStack() as stack:
        settings = read_settings(bundle=bundle, cache=url, store_timeout_ms=20_000.0)
        model = open_model(settings, stack)
        cache = await open_store(settings, model)
        stack.push_async_callback(cache.close)
        users = sorted([user async for user in cache.users()])
        found = [await cache.fetch(user, limit=100, layout=model.layout) for user in users]
    with Redis.from_url(url) as redis:
        keys = set(redis.scan_iter(count=1_000))
    assert all(each.valid[-model.spec.reach :].all() for each in found)
    rows = np.concatenate([each.rows[each.valid]["records"] for each in found])
    return (
        keys,
        [(user, list(each.timeline.events())) for user, each in zip(users, found, strict=True)],
        rows,
    )
