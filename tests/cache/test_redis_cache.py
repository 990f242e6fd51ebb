"""What only a server can do: be away, be asked once, expire keys."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import redis

from cache.errors import CacheMismatch, CacheUnavailable, StaleVersion
from cache.redis_cache import RedisCache
from cache.snapshot import Snapshot
from tests.cache.stores import LAYOUT, OTHER, RedisStore, rows_of, some_events


@pytest.fixture
def store(redis_server: Any) -> Any:
    return RedisStore(redis_server.url)


async def _post(cache: RedisCache, user: str, start: int, size: int) -> int:
    events = some_events(size, start)
    change = (await cache.fetch(user, limit=100, layout=LAYOUT, around=events)).merge(events)
    return await cache.append(change.with_rows(*rows_of(len(change.timeline))))


def _calls(client: redis.Redis) -> dict[str, int]:
    return {name: found["calls"] for name, found in client.info("commandstats").items()}


async def test_a_fetch_is_one_round_trip(store: RedisStore) -> None:
    """Once in contact, a fetch and an append are one command each."""
    cache = store.open()
    await _post(cache, "u", 0, 200)
    client = store.client
    client.config_resetstat()
    await cache.fetch("u", limit=100, upto=5000, layout=LAYOUT)
    calls = _calls(client)
    assert calls["cmdstat_evalsha"] == 1
    assert not {"cmdstat_eval", "cmdstat_get", "cmdstat_hello", "cmdstat_ping"} & set(calls)
    assert calls["cmdstat_hget"] <= 2 * (100 // 32 + 3)
    client.config_resetstat()
    await _post(cache, "u", 200, 1)
    assert _calls(client)["cmdstat_evalsha"] == 2
    await cache.close()


async def test_every_row_key_expires(store: RedisStore) -> None:
    """No record key is without expiry, each write refreshes it, and timelines have none."""
    cache = store.open(record_ttl_s=1000)
    await _post(cache, "u", 0, 40)
    (key,) = store.client.keys("*:r:*")
    store.client.expire(key, 500)
    await _post(cache, "u", 40, 1)
    assert 900 < store.client.ttl(key) <= 1000
    others = [name for name in store.client.scan_iter() if name != key]
    assert {store.client.ttl(name) for name in others} == {-1}
    assert len({name.split(b"{")[1][:4] for name in store.client.keys("*{*")}) == 1
    await cache.close()


async def test_rows_may_be_evicted(store: RedisStore) -> None:
    """Without its record key a user has a timeline still, and no row is valid."""
    cache = store.open()
    await _post(cache, "u", 0, 40)
    store.client.delete(*store.client.keys("*:r:*"))
    found = await cache.fetch("u", limit=100, layout=LAYOUT)
    assert (len(found.timeline), found.valid.any()) == (40, False)
    await cache.close()


async def test_scripts_come_back_after_a_flush(store: RedisStore) -> None:
    """A server that forgot the scripts is told them again, unseen."""
    cache = store.open()
    await _post(cache, "u", 0, 3)
    store.client.script_flush()
    await _post(cache, "u", 3, 1)
    store.client.script_flush()
    await cache.forget("u")
    assert (await cache.fetch("u", limit=9)).version == 0
    await cache.close()


async def test_a_cancelled_call_leaves_nothing_behind(store: RedisStore) -> None:
    """Calls cancelled at any moment never hand their reply to the next caller."""
    cache = store.open(connections=2)
    users = [f"user-{at}" for at in range(8)]
    for at, user in enumerate(users):
        await _post(cache, user, 100 * at, at + 1)

    async def asks(user: str, steps: int) -> Snapshot:
        task = asyncio.create_task(cache.fetch(user, limit=100, layout=LAYOUT))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        return await task

    for steps in range(40):
        gone = [asks(user, steps) for user in users[:4]]
        await asyncio.gather(*gone, return_exceptions=True)
        for at, user in enumerate(users):
            found = await cache.fetch(user, limit=100, layout=LAYOUT)
            assert found.timeline.item_ids == tuple(f"item-{100 * at + i}" for i in range(at + 1))
    await cache.close()


async def test_away_and_back(own_redis: Any) -> None:
    """Every call says `CacheUnavailable` while the server is down, and works again after."""
    own_redis.kill()
    cache = RedisCache(own_redis.url, timeout_s=20)
    event = some_events(1)
    for call in (cache.ping(), cache.fetch("u", limit=1), cache.forget("u")):
        with pytest.raises(CacheUnavailable):
            await call
    own_redis.start()
    change = (await cache.fetch("u", limit=1, around=event)).merge(event)
    own_redis.kill()
    with pytest.raises(CacheUnavailable):
        await cache.append(change)
    own_redis.start()
    await cache.append(change)
    assert len((await cache.fetch("u", limit=1)).timeline) == 1
    await cache.close()


async def test_a_silent_server_is_away(own_redis: Any) -> None:
    """A server that accepts and does not answer is away after the timeout."""
    cache = RedisCache(own_redis.url, timeout_s=20)
    await cache.ping()
    cache._timeout_s = 0.05
    own_redis.pause()
    with pytest.raises(CacheUnavailable, match=r"0\.05"):
        await cache.fetch("u", limit=1)
    own_redis.resume()
    await cache.close()


async def test_a_full_server_refuses_plainly(own_redis: Any) -> None:
    """Out of memory is `CacheUnavailable`, and the timeline is what it was."""
    cache = RedisCache(own_redis.url, timeout_s=20)
    version = await _post(cache, "u", 0, 3)
    with redis.Redis.from_url(own_redis.url) as client:
        client.config_set("maxmemory", 1)
        with pytest.raises(CacheUnavailable):
            await _post(cache, "u", 3, 1)
        client.config_set("maxmemory", 0)
    assert (await cache.fetch("u", limit=9)).version == version
    await cache.close()


async def test_the_store_may_be_away_at_start(own_redis: Any) -> None:
    """Opening needs no server; the mismatch is told at the first contact."""
    first = RedisCache(own_redis.url, keep=10, timeout_s=20)
    await first.ping()
    second = RedisCache(own_redis.url, keep=20, timeout_s=20)
    with pytest.raises(CacheMismatch, match=r"10 .*20"):
        await second.fetch("u", limit=1)
    await first.close()
    await second.close()


async def test_a_timeline_that_lost_its_index_is_whole(store: RedisStore) -> None:
    """An index that was evicted by itself is made again from the timeline."""
    cache = store.open()
    await _post(cache, "u", 0, 90)
    change = (await cache.fetch("u", limit=9, around=some_events(1, 90))).merge(some_events(1, 90))
    store.client.delete(*store.client.keys("*:i:*"))
    with pytest.raises(StaleVersion):
        await cache.append(change)
    found = await cache.fetch("u", limit=100)
    assert (len(found.timeline), found.quarantined) == (90, False)
    await cache.append(change)
    assert len((await cache.fetch("u", limit=100)).timeline) == 91
    await cache.close()


async def test_an_evicted_timeline_is_counted(store: RedisStore) -> None:
    """A timeline that is gone while its index or its rows are there was evicted."""
    seen: list[str] = []
    cache = store.open(on_event=seen.append)
    await _post(cache, "u", 0, 9)
    await cache.fetch("nobody", limit=9, layout=LAYOUT)
    assert not seen
    store.client.delete(*store.client.keys("*:t:*"))
    assert (await cache.fetch("u", limit=9, layout=LAYOUT)).version == 0
    assert seen == ["evicted_timeline"]
    await cache.close()


async def _end_waiting(client: Any, writing: asyncio.Task[int]) -> None:
    """As if the time that a server waits for its replicas were over."""
    while not (blocked := [one for one in client.client_list() if "b" in one["flags"]]):
        assert not writing.done()
        await asyncio.sleep(0.005)
    client.client_unblock(int(blocked[0]["id"]))


async def test_events_wait_for_replicas(store: RedisStore) -> None:
    """With `acks` a write that too few replicas have is refused, and so is its repetition."""
    cache = store.open()
    await _post(cache, "u", 0, 3)
    careful = store.open(acks=1)
    for start in (3, 0):
        writing = asyncio.create_task(_post(careful, "u", start, 1))
        await _end_waiting(store.client, writing)
        with pytest.raises(CacheUnavailable, match="0 of 1 replicas"):
            await writing
    rows = (await careful.fetch("u", limit=9, layout=OTHER)).merge([]).with_rows(*rows_of(4))
    await careful.append(rows)  # can be computed again: nobody waits
    for opened in (cache, careful):
        await opened.close()


async def test_a_connection_closed_under_a_write_is_away(
    store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """uvloop has a word of its own for it; whoever asks next is answered over another one."""
    cache = store.open()
    await cache.ping()
    (line,) = cache._link._client.connection_pool._available_connections  # type: ignore[attr-defined]

    def closed_meanwhile(_: object) -> None:
        raise RuntimeError("unable to perform operation on <TCPTransport>; the handler is closed")

    monkeypatch.setattr(line._writer, "writelines", closed_meanwhile)
    with pytest.raises(CacheUnavailable, match="handler is closed"):
        await cache.fetch("u", limit=1)
    assert (await cache.fetch("u", limit=1)).version == 0
    await cache.close()
