"""What only several servers can do: move slots, take over, answer from a copy."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from cache.keys import RedisKeys, owner_of
from cache.redis_cache import RedisCache
from cache.watchers import Watchers
from tests.cache.stores import LAYOUT, rows_of, some_events
from tests.clusters import RedisCluster, RedisSentinel, ask, running_sentinel
from tests.ports import free_port

USERS = [f"user-{at}" for at in range(12)]


@pytest.fixture
def cluster(redis_cluster: RedisCluster) -> RedisCluster:
    redis_cluster.flush()
    return redis_cluster


@pytest.fixture
def sentinel(tmp_path: Path) -> Iterator[RedisSentinel]:
    with running_sentinel(tmp_path) as found:
        yield found


async def post(cache: RedisCache, user: str, start: int, size: int) -> int:
    events = some_events(size, start)
    change = (await cache.fetch(user, limit=100, layout=LAYOUT, around=events)).merge(events)
    return await cache.append(change.with_rows(*rows_of(len(change.timeline))))


def scripts_run(cluster: RedisCluster, place: int) -> int:
    """How many scripts a server has run."""
    for line in ask(cluster.servers[place], "INFO", "commandstats").items():
        if line[0] == "cmdstat_evalsha":
            return int(line[1]["calls"])
    return 0


async def test_users_are_spread_and_their_keys_together(cluster: RedisCluster) -> None:
    """Every primary has some users, each all of theirs; forgetting finds them all."""
    cache = RedisCache(cluster.url, timeout_s=20)
    for user in USERS:
        await post(cache, user, 0, 40)
    assert all(ask(cluster.servers[at], "DBSIZE") for at in range(3))
    await asyncio.gather(*(cache.forget(user) for user in USERS))
    left = [key for at in range(3) for key in ask(cluster.servers[at], "KEYS", "*")]
    assert all(key.endswith((b"keep", b"floor")) for key in left)
    await cache.close()


async def test_a_slot_on_the_move(cluster: RedisCluster) -> None:
    """While the keys of a slot move, its users wait; then they are where they went."""
    cache = RedisCache(cluster.url, timeout_s=20)
    user = USERS[0]
    await asyncio.gather(*(post(cache, name, 0, 3) for name in USERS))  # connections to spare
    known = await cache.fetch(user, limit=100, layout=LAYOUT)
    keys = RedisKeys(owner_of(user))
    slot = ask(cluster.servers[0], "CLUSTER", "KEYSLOT", keys.timeline)
    source = cluster.owner(slot)
    target = next(server for server in cluster.servers[:3] if server is not source)
    names = cluster.names()
    ask(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", names[source.port])
    ask(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", names[target.port])
    for key in ask(source, "CLUSTER", "GETKEYSINSLOT", slot, 100):
        ask(source, "MIGRATE", "127.0.0.1", target.port, key, 0, 5000)
    writing = asyncio.create_task(post(cache, user, 3, 1))
    reading = [
        asyncio.create_task(cache.fetch(user, limit=9, layout=LAYOUT, known=known))
        for _ in range(20)
    ]
    done, _ = await asyncio.wait([writing, *reading], timeout=0.1)
    assert not done  # a server does not say what a half of the keys would
    for server in (target, source):
        ask(server, "CLUSTER", "SETSLOT", slot, "NODE", names[target.port])
    await writing
    assert {len((await one).timeline) for one in reading} <= {3, 4}
    await cache.forget(user)
    await post(cache, user, 0, 2)
    found = await asyncio.gather(*(cache.fetch(user, limit=100) for _ in range(20)))
    assert {len(snapshot.timeline) for snapshot in found} == {2}
    await cache.close()


async def test_a_cancelled_call_leaves_nothing_behind(cluster: RedisCluster) -> None:
    """Calls cancelled at any moment never hand their reply to the next caller."""
    cache = RedisCache(cluster.url, timeout_s=20)
    for at, user in enumerate(USERS):
        await post(cache, user, 100 * at, at + 1)

    async def asks(user: str, steps: int) -> Any:
        task = asyncio.create_task(cache.fetch(user, limit=100, layout=LAYOUT))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        return await task

    for steps in range(0, 40, 3):
        gone = [asks(user, steps) for user in USERS[:6]]
        await asyncio.gather(*gone, return_exceptions=True)
        for at, user in enumerate(USERS):
            found = await cache.fetch(user, limit=100, layout=LAYOUT)
            assert found.timeline.item_ids == tuple(f"item-{100 * at + i}" for i in range(at + 1))
    await cache.close()


async def test_replicas_may_answer(cluster: RedisCluster) -> None:
    """Told so, reads that may be old go to replicas; what replicas confirmed is seen there."""
    cache = RedisCache(cluster.url, timeout_s=20, acks=1, replica_reads=True)
    before = [scripts_run(cluster, at) for at in range(6)]
    for user in USERS:
        for size in range(1, 4):
            version = await post(cache, user, size, 1)
            found = await cache.fetch(user, limit=9, layout=LAYOUT, may_be_old=True)
            assert (found.version, len(found.timeline)) == (version, size)
    ran = [scripts_run(cluster, at) - before[at] for at in range(6)]
    assert sum(ran[3:]) == 3 * len(USERS)
    await cache.close()


async def test_an_old_copy_is_told_by_its_version(sentinel: RedisSentinel) -> None:
    """A replica that fell behind shows an older version; the master has the newest."""
    cache = RedisCache(sentinel.url, timeout_s=20, acks=1, replica_reads=True)
    old = await post(cache, "u", 0, 1)
    copy = next(server for server in sentinel.servers if server is not sentinel.master)
    assert (await cache.fetch("u", limit=9, may_be_old=True)).version == old
    ask(copy, "REPLICAOF", "NO", "ONE")
    quick = RedisCache(sentinel.url, timeout_s=20)
    new = await post(quick, "u", 1, 1)
    assert (await cache.fetch("u", limit=9, may_be_old=True)).version == old
    assert (await cache.fetch("u", limit=9)).version == new
    for opened in (cache, quick):
        await opened.close()


async def test_no_watcher_is_lost_to_those_who_ask_at_once(sentinel: RedisSentinel) -> None:
    """One that is away is asked first by all of them; afterwards it is still known, and once."""
    ports = [free_port(), *(watcher.port for watcher in sentinel.watchers)]
    watchers = Watchers(  # type: ignore[no-untyped-call]
        [("127.0.0.1", port) for port in ports], sentinel_kwargs={"retry": Retry(NoBackoff(), 0)}
    )
    everyone = set(watchers.sentinels)
    found = await asyncio.gather(*(watchers.discover_master("marmot") for _ in range(20)))
    assert {port for _, port in found} == {sentinel.master.port}
    assert len(watchers.sentinels) == len(everyone)
    assert set(watchers.sentinels) == everyone
    await watchers.aclose()
