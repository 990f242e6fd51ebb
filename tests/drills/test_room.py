"""A store without room: full, evicting records, evicting timelines, a full map, a full disk."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from cache.errors import CacheUnavailable
from cache.lmdb_cache import LmdbCache
from tests.cache.stores import LAYOUT, rows_of, some_events
from tests.drills.load import CANDIDATES, Load, show
from tests.servers import RedisServer

CROWD = [f"guest-{at}" for at in range(60)]
EVENTS = 40


@pytest.fixture
def client(own_redis: RedisServer) -> Iterator[Redis]:
    with Redis.from_url(own_redis.url, protocol=2, socket_timeout=60) as found:
        yield found


def fill(running: Any) -> None:
    for user in CROWD:
        show(running, user, EVENTS)


def keys_of(client: Redis, kind: str) -> set[str]:
    """Users that have a key of this kind: t is the timeline, i its index, r a record."""
    return {key.decode().rsplit(":", 1)[1] for key in client.scan_iter(f"marmot:*:{kind}:*")}


def squeeze(client: Redis, policy: str, until: Callable[[], bool]) -> None:
    """Takes memory away, a little at a time."""
    client.config_set("maxmemory-policy", policy)
    limit = client.info("memory")["used_memory"]
    while not until():
        limit -= 4096
        client.config_set("maxmemory", limit)
        client.set("marmot-drill", b"x", px=1)  # the server makes room before a write


def counted(running: Any, event: str) -> int:
    """What the metrics say a store's event has happened."""
    line = f'marmot_store_events_total{{event="{event}"}} '
    told = running.client.get("/metrics").text
    return int(float(told.split(line)[1].split()[0])) if line in told else 0


def test_no_room(
    serve_as_deployed: Callable[..., Any],
    own_redis: RedisServer,
    client: Redis,
    passed: Callable[..., Any],
) -> None:
    """Full, noeviction: events are refused and none is half stored; ranking knows its users."""
    with Load(serve_as_deployed(cache=own_redis.url)) as load:
        client.config_set("maxmemory", 1)
        load.hold(1.0)
        client.config_set("maxmemory", 0)
        load.until_back()
    outcome = passed("full store, noeviction", load)
    assert outcome.refused


def test_records_are_evicted(
    serve_as_deployed: Callable[..., Any],
    own_redis: RedisServer,
    client: Redis,
    passed: Callable[..., Any],
) -> None:
    """volatile-lru: records go, timelines stay, and the records are computed again."""
    running = serve_as_deployed(cache=own_redis.url)
    fill(running)
    with Load(running) as load:
        squeeze(client, "volatile-lru", lambda: len(keys_of(client, "r")) < len(CROWD) // 2)
        client.config_set("maxmemory", 0)
        load.until_back()
    passed("volatile-lru", load)
    assert keys_of(client, "t") >= set(CROWD)
    lost = set(CROWD) - keys_of(client, "r")
    for user in lost:
        assert running.rank(user, CANDIDATES)["cache"]["state"] in ("partial", "away")
    assert lost


def test_timelines_are_evicted(
    serve: Callable[..., Any],
    own_redis: RedisServer,
    client: Redis,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """allkeys-lru: the log warns of it; who lost a timeline is cold and counted, others whole."""
    client.config_set("maxmemory-policy", "allkeys-lru")
    running = serve(cache=own_redis.url, near_mib=0)
    assert "maxmemory-policy is allkeys-lru" in caplog.text
    fill(running)
    squeeze(client, "allkeys-lru", lambda: len(keys_of(client, "t")) < len(CROWD) - 20)
    client.config_set("maxmemory", 0)
    kept, traces = keys_of(client, "t"), keys_of(client, "i") | keys_of(client, "r")
    headless = {user for user in kept if user not in keys_of(client, "i")}
    for user in CROWD:
        answer = running.rank(user, CANDIDATES)
        assert (answer["cache"]["state"] == "cold") == (user not in kept)
        assert answer["degraded"] == []
    assert counted(running, "evicted_timeline") == len((set(CROWD) - kept) & traces)
    for user in headless:
        assert len(running.timeline(user)["events"]) == EVENTS


def test_a_flipped_byte(serve: Callable[..., Any], own_redis: RedisServer, client: Redis) -> None:
    """A record with a flipped byte is computed again and counted; the scores are what they were."""
    running = serve(cache=own_redis.url, near_mib=0)
    running.post(*({"user_id": "u", "item_id": at, "timestamp": at} for at in range(9)))
    before = running.rank("u", CANDIDATES, timestamp=99)
    (key,) = client.scan_iter("marmot:*:r:*")
    ((name, value),) = client.hgetall(key).items()
    client.hset(key, name, value[:60] + bytes([value[60] ^ 1]) + value[61:])
    after = running.rank("u", CANDIDATES, timestamp=99)
    assert after["cache"]["state"] == "partial"
    assert after["scores"]["like"] == pytest.approx(before["scores"]["like"], abs=1e-4)
    assert counted(running, "damaged_record")


async def write_until_full(cache: LmdbCache) -> list[str]:
    """Users that were stored before the first refusal."""
    stored: list[str] = []
    while True:
        user, events = f"user-{len(stored)}", some_events(200)
        change = (await cache.fetch(user, limit=100, layout=LAYOUT, around=events)).merge(events)
        try:
            await cache.append(change.with_rows(*rows_of(len(change.timeline))))
        except CacheUnavailable:
            return stored
        stored.append(user)


async def check(cache: LmdbCache, stored: list[str]) -> None:
    for user in stored:
        assert len((await cache.fetch(user, limit=1000)).timeline) == 200


async def add(cache: LmdbCache, user: str) -> None:
    more = some_events(200)
    await cache.append((await cache.fetch(user, limit=100, around=more)).merge(more))


async def test_a_full_map(tmp_path: Path) -> None:
    """LMDB at its map's size refuses; all that was said to be stored is; a larger map goes on."""
    cache = LmdbCache(tmp_path, map_size_gib=2 / 1024, is_durable=False)
    stored = await write_until_full(cache)
    assert stored
    await check(cache, stored)
    await cache.close()
    cache = LmdbCache(tmp_path, map_size_gib=4 / 1024)
    await check(cache, stored)
    await add(cache, "later")
    await check(cache, [*stored, "later"])
    await cache.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of eight MiB."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(tmp_path)]
    try:
        done = subprocess.run(mount, capture_output=True, check=False)  # noqa: S603
    except OSError as error:
        pytest.skip(f"nothing can be mounted here: {error}")
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.decode().strip()}")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)  # noqa: S603, S607


async def test_a_full_disk(small_disk: Path) -> None:
    """LMDB on a full disk refuses and reads on; when there is room again it writes, as it is."""
    cache = LmdbCache(small_disk / "store", map_size_gib=1)
    stored = await write_until_full(cache)
    assert stored
    await check(cache, stored)
    grow = ["mount", "-o", "remount,size=16m", str(small_disk)]
    subprocess.run(grow, check=True)  # noqa: S603, ASYNC221
    await add(cache, "later")
    await check(cache, [*stored, "later"])
    await cache.close()


async def test_a_full_disk_forgets(small_disk: Path) -> None:
    """Whoever is deleted is gone, one by one or all at once, however full the disk is.

    What they leave is room for others, and a service that starts anew finds the rest as it was.
    """
    cache = LmdbCache(small_disk / "store", map_size_gib=1)
    stored = await write_until_full(cache)
    fill = small_disk / "others"
    with suppress(OSError), fill.open("wb", buffering=0) as file:
        while file.write(b"x" * 4096):
            pass
    some, many, rest = stored[:20], stored[20:-20], stored[-20:]
    for user in some:
        await cache.forget(user)
    await asyncio.gather(*map(cache.forget, many))
    for user in (*some, *many):
        assert not len((await cache.fetch(user, limit=1)).timeline)
    await cache.close()
    cache = LmdbCache(small_disk / "store", map_size_gib=1)
    await check(cache, rest)
    fill.unlink()
    await add(cache, "later")
    await check(cache, [*rest, "later"])
    await cache.close()
