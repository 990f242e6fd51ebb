"""What only an embedded store can do: be shared by processes, be full, be swept."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from cache.errors import CacheUnavailable, StaleVersion
from cache.lmdb_cache import LmdbCache
from cache.timeline import Event
from tests.cache.stores import LAYOUT, LmdbStore, rows_of, some_events

ROOT = Path(__file__).parents[2]

POSTS = """
import asyncio, sys
from cache.errors import StaleVersion
from cache.lmdb_cache import LmdbCache
from cache.timeline import Event

async def main(path, name):
    cache = LmdbCache(path, is_durable=False, map_size_gib=1)
    for at in range(50):
        event = [Event(f"{name}-{at}", at)]
        while True:
            try:
                await cache.append((await cache.fetch("u", limit=5, around=event)).merge(event))
                break
            except StaleVersion:
                pass
    await cache.close()

asyncio.run(main(*sys.argv[1:]))
"""


async def _post(cache: LmdbCache, user: str, events: list[Event]) -> None:
    change = (await cache.fetch(user, limit=100, layout=LAYOUT, around=events)).merge(events)
    await cache.append(change.with_rows(*rows_of(len(change.timeline))))


async def test_processes_share_one_store(tmp_path: Path) -> None:
    """Processes writing one user at once lose nothing and see one another's writes."""
    cache = LmdbCache(tmp_path, is_durable=False, map_size_gib=1)
    command = (sys.executable, "-c", POSTS, str(tmp_path))
    others = [await asyncio.create_subprocess_exec(*command, name, cwd=ROOT) for name in "ab"]
    for at in range(50):
        await _post_until_stored(cache, [Event(f"c-{at}", at)])
    assert [await other.wait() for other in others] == [0, 0]
    found = await cache.fetch("u", limit=1000)
    assert len(found.timeline) == 150
    await cache.close()


async def _post_until_stored(cache: LmdbCache, events: list[Event]) -> None:
    while True:
        try:
            await cache.append((await cache.fetch("u", limit=5, around=events)).merge(events))
        except StaleVersion:
            continue
        return


async def test_writes_survive_a_reopening(tmp_path: Path) -> None:
    """What was acknowledged is there for the next process."""
    cache = LmdbCache(tmp_path, map_size_gib=1)
    await _post(cache, "u", some_events(40))
    await cache.close()
    again = LmdbCache(tmp_path, map_size_gib=1)
    found = await again.fetch("u", limit=100, layout=LAYOUT)
    assert (len(found.timeline), found.valid.all()) == (40, True)
    await again.close()


async def test_a_full_map_refuses_plainly(tmp_path: Path) -> None:
    """A full map is `CacheUnavailable`; what was stored is still read."""
    cache = LmdbCache(tmp_path, is_durable=False, map_size_gib=0.0005)
    users = [f"user-{at}" for at in range(100)]
    posts = [_post(cache, user, some_events(90)) for user in users]
    refused = [await asyncio.gather(post, return_exceptions=True) for post in posts]
    for user, (problem,) in zip(users, refused, strict=True):
        found = await cache.fetch(user, limit=100)
        assert len(found.timeline) == (0 if problem else 90)
    assert refused[0] == [None]
    assert {type(problem) for (problem,) in refused} == {type(None), CacheUnavailable}
    await cache.close()


async def _fill(cache: LmdbCache) -> list[str]:
    """Users that were stored before the first refusal."""
    stored: list[str] = []
    with suppress(CacheUnavailable):
        while len(stored) < 10_000:
            await _post(cache, f"user-{len(stored)}", some_events(90))
            stored.append(f"user-{len(stored)}")
    return stored


async def test_a_full_store_can_forget(tmp_path: Path) -> None:
    """Everybody can be forgotten though nobody more can be stored, and then others can."""
    cache = LmdbCache(tmp_path, is_durable=False, map_size_gib=2 / 1024)
    stored = await _fill(cache)
    assert len(stored) > 20
    forgetting = [cache.forget(user) for user in stored[:-1]]
    late = [_post(cache, f"late-{at}", some_events(90)) for at in range(3)]
    found = await asyncio.gather(*late, *forgetting, return_exceptions=True)
    assert found[len(late) :] == [None] * len(forgetting)
    assert [user async for user in cache.users() if user in stored] == stored[-1:]
    assert len(await _fill(cache)) >= len(stored) - 3
    await cache.close()


async def test_a_map_filled_to_its_end_can_forget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that was filled before there was a headroom."""
    with monkeypatch.context() as before:
        before.setattr("cache.lmdb_cache.HEADROOM_BYTES", 0)
        before.setattr("cache.lmdb_store.Room.check", lambda *_: None)
        cache = LmdbCache(tmp_path, is_durable=False, map_size_gib=2 / 1024)
        stored = await _fill(cache)
        await cache.close()
    cache = LmdbCache(tmp_path, is_durable=False, map_size_gib=2 / 1024)
    for user in stored:
        await cache.forget(user)
    assert [user async for user in cache.users()] == []
    await _post(cache, "later", some_events(90))
    await cache.close()


async def test_a_closed_or_impossible_store_is_away(tmp_path: Path) -> None:
    """A path that cannot be a folder, and a cache that was closed, are `CacheUnavailable`."""
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheUnavailable, match="file"):
        LmdbCache(tmp_path / "file")
    cache = LmdbCache(tmp_path / "store", map_size_gib=1)
    await cache.close()
    await cache.close()
    for call in (cache.ping(), cache.fetch("u", limit=1), cache.forget("u")):
        with pytest.raises(CacheUnavailable):
            await call


async def test_a_sweep_deletes_expired_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LMDB expires nothing by itself; a sweep deletes what has expired and nothing else."""
    monkeypatch.setattr("cache.lmdb_cache.SWEEP_KEYS", 3)
    now_s = [1000.0]
    store = LmdbStore(tmp_path)
    cache = store.open(record_ttl_s=100, clock=lambda: now_s[0])
    for at in range(5):
        await _post(cache, f"old-{at}", some_events(40))
    now_s[0] += 101
    await _post(cache, "new", some_events(40))
    assert sum([count async for count in cache.sweep()]) == 10
    kinds = [store.kind(cell) for cell in store.cells()]
    assert (kinds.count("rows"), kinds.count("head")) == (2, 6)
    assert (await cache.fetch("new", limit=100, layout=LAYOUT)).valid.all()
    store.close()


async def test_a_failing_job_fails_alone(tmp_path: Path) -> None:
    """A bug in one write is told to its caller; writes that shared its transaction are stored."""
    cache = LmdbCache(tmp_path, is_durable=False, map_size_gib=1)

    def broken(_: object) -> None:
        raise KeyError("bug")

    bad = asyncio.wrap_future(cache._writer.submit(broken))
    good = _post(cache, "u", some_events(3))
    found = await asyncio.gather(bad, good, return_exceptions=True)
    assert [type(result) for result in found] == [KeyError, type(None)]
    assert len((await cache.fetch("u", limit=9)).timeline) == 3
    await cache.close()
