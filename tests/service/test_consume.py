"""`marmot consume`: a stream's events in the store, each once, whatever happens on the way."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis

from cache.timeline import Event, Timeline
from service.consumer import Consumer
from service.consumer_metrics import ConsumerMetrics
from service.consuming import Consumed, consume
from service.errors import UsageError
from service.events import to_event
from service.house import open_model, open_store
from service.schemas import parse_event
from service.settings import read_settings
from service.stream import EventStream
from tests import plain
from tests.servers import Command, RedisServer, flush, running_redis, wait_until

USERS = [f"u{number}" for number in range(7)]
Marmot = Callable[..., Command]


def made(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Events of a few users, in no order, each once."""
    random = np.random.default_rng(seed)
    return [
        {
            "user_id": USERS[place % len(USERS)],
            "item_id": int(random.integers(60)),
            "timestamp": 1_000 + int(at),
            "feedback": {"like": int(random.integers(2))},
        }
        for place, at in enumerate(random.permutation(count))
    ]


class Producer:
    """Whoever fills the stream, and looks at what became of it."""

    def __init__(self, server: RedisServer, name: str = "events") -> None:
        self.url, self.name = f"{server.url}?stream={name}", name
        self.redis = Redis.from_url(server.url)

    def send(self, *events: Any) -> None:
        with self.redis.pipeline(transaction=False) as pipe:
            for event in events:
                body = event if isinstance(event, bytes) else json.dumps(event)
                pipe.xadd(self.name, {"event": body})
            pipe.execute()

    @property
    def group(self) -> dict[str, Any]:
        found: dict[str, Any] = self.redis.xinfo_groups(self.name)[0]
        return found

    @property
    def dead(self) -> list[dict[bytes, bytes]]:
        return [fields for _, fields in self.redis.xrange(f"{self.name}:dead")]


@pytest.fixture
def producer(redis_server: RedisServer) -> Iterator[Producer]:
    flush(redis_server.url)
    found = Producer(redis_server)
    yield found
    found.redis.close()


@pytest.fixture
def lmdb(tmp_path: Path) -> str:
    return f"lmdb:{tmp_path}/cache"


@pytest.fixture
def eat(tiny_bundle: Path, producer: Producer) -> Callable[..., Awaitable[Consumed]]:
    """Consumes in this process until the stream is empty."""

    async def run(cache: str, **options: Any) -> Consumed:
        options = {"group": "g", "until_empty": True, "claim_after_s": 0.1, **options}
        made = read_settings(
            bundle=tiny_bundle, cache=cache, metrics_port=0, store_timeout_ms=20_000.0
        )
        return await consume(made, producer.url, **options)

    return run


async def timelines(bundle: Path, cache: str) -> dict[str, list[Event]]:
    """Every user's timeline as it is stored."""
    async with AsyncExitStack() as stack:
        options = read_settings(bundle=bundle, cache=cache, store_timeout_ms=20_000.0)
        store = await open_store(options, open_model(options, stack))
        stack.push_async_callback(store.close)
        found = {user: await store.fetch(user, limit=10_000) for user in USERS}
    return {user: list(snapshot.timeline.events()) for user, snapshot in found.items()}


def merged(events: list[dict[str, Any]]) -> dict[str, list[Event]]:
    """What the timelines are once each of the events was stored."""
    sent = [(e["user_id"], to_event(parse_event(json.dumps(e).encode()))) for e in events]
    return {
        user: list(Timeline.of(event for owner, event in sent if owner == user).events())
        for user in USERS
    }


async def test_the_stream_is_another_door(
    eat: Any, producer: Producer, tiny_bundle: Path, lmdb: str
) -> None:
    """Timelines are those of the same events posted in order, however often and mixed they come."""
    events = made(60)
    producer.send(*events, *reversed(events[:30]))
    done = await eat(lmdb, batch=25)
    assert done.entries == 90
    assert done.outcomes["duplicate"] == 30
    assert (done.waiting, done.pending) == (0, 0)
    assert not producer.dead
    assert await timelines(tiny_bundle, lmdb) == merged(events)


GOOD = {"user_id": "u1", "item_id": 3, "timestamp": 5}
BAD = [
    (b"{", "not JSON"),
    (b"\xff\xfe", "not JSON"),
    (b"[]", "must be an object"),
    (json.dumps({**GOOD, "item_id": 1.5}).encode(), "item_id"),
    (json.dumps({**GOOD, "user_id": "\x00"}).encode(), "user_id contains control characters"),
    (json.dumps({**GOOD, "colour": 1}).encode(), "colour is not a known field"),
    (json.dumps({**GOOD, "timestamp": 2**50}).encode(), "too far in the future"),
]


async def test_what_is_no_event_is_put_aside(eat: Any, producer: Producer, lmdb: str) -> None:
    """Bad entries block nobody: each lies in the dead-letter stream, whole, with one sentence."""
    for body, _ in BAD:
        producer.send(body, GOOD)
    producer.redis.xadd(producer.name, {"something": "else"})
    done = await eat(lmdb)
    assert done.outcomes == {"appended": 1, "dead": len(BAD) + 1, "duplicate": len(BAD) - 1}
    assert producer.group["pending"] == 0
    *bad, other = producer.dead
    for (body, sentence), found in zip(BAD, bad, strict=True):
        assert found[b"event"] == body
        assert sentence in found[b"reason"].decode()
        assert b"\n" not in found[b"reason"]
        assert producer.redis.xrange(producer.name, found[b"id"], found[b"id"])
    assert other[b"something"] == b"else"
    assert other[b"reason"] == b"the entry has no field event"


@given(bodies=st.lists(st.binary(max_size=40), min_size=1, max_size=20))
@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
async def test_any_bytes(producer: Producer, bodies: list[bytes]) -> None:
    """Whatever lies in a stream, every entry is settled."""

    async def write(_user: str, events: Sequence[Event]) -> list[str]:
        return ["appended" for _ in events]

    producer.redis.flushdb()
    producer.send(*bodies)
    stream, metrics = EventStream(producer.url, group="g", consumer="c"), ConsumerMetrics()
    await stream.open()
    await Consumer(stream, write, metrics).run(asyncio.Event(), until_empty=True)
    await stream.close()
    assert metrics.outcomes.total() == len(bodies)
    assert len(producer.dead) == metrics.outcomes["dead"]


async def test_entries_that_were_deleted(eat: Any, producer: Producer, lmdb: str) -> None:
    """What was deleted while somebody had it is counted as vanished, and is pending no more."""
    producer.send(GOOD, {**GOOD, "timestamp": 6})
    producer.redis.xgroup_create(producer.name, "g", "0")
    ((_, entries),) = producer.redis.xreadgroup("g", "dead", {producer.name: ">"})
    producer.redis.xdel(producer.name, entries[0][0])
    done = await eat(lmdb)
    assert done.outcomes["appended"] == 1
    assert producer.group["pending"] == 0


@pytest.fixture
def lasting(tmp_path: Path) -> Iterator[RedisServer]:
    """A store that remembers across restarts."""
    folder = tmp_path / "store"
    folder.mkdir()
    with running_redis(folder, "--appendonly", "yes", "--appendfsync", "always") as server:
        yield server


def argued(bundle: Path, cache: str, producer: Producer) -> list[str]:
    return [
        "consume", "--bundle", str(bundle), "--cache", cache, "--stream", producer.url,
        "--group", "g", "--batch", "20", "--claim-after-s", "0.2", "--json",
    ]  # fmt: skip


QUICK = {"MARMOT_METRICS_PORT": "0", "MARMOT_STORE_TIMEOUT_MS": "2000"}


async def test_killed_in_the_middle(
    marmot: Marmot, eat: Any, own_redis: RedisServer, producer: Producer, tiny_bundle: Path
) -> None:
    """What a consumer had when it was killed is taken over, and stored once."""
    events = made(120)
    command = argued(tiny_bundle, own_redis.url, producer)
    first = marmot(*command, "--consumer", "first", **QUICK)
    producer.send(*events[:40])
    wait_until(lambda: _settled(producer) == 40, within_s=120)
    own_redis.pause()  # so that it cannot be between two batches
    producer.send(*events[40:])
    had = wait_until(lambda: producer.group["pending"])  # as many as were there when it looked
    first.send(signal.SIGKILL)
    first.ends()
    own_redis.resume()
    assert producer.group["pending"] == had
    done = await eat(own_redis.url, batch=20, claim_after_s=0.2)
    assert done.entries == 80
    assert (done.waiting, done.pending) == (0, 0)
    assert await timelines(tiny_bundle, own_redis.url) == merged(events)


async def test_the_store_goes_and_comes_back(
    marmot: Marmot, lasting: RedisServer, producer: Producer, tiny_bundle: Path, free_port: int
) -> None:
    """While the store is away nothing is acknowledged and the lag shows; then everything is stored.

    SIGTERM ends it well: exit code 0, nothing pending, no name left in the group.
    """
    events = made(120, seed=1)
    running = marmot(
        *argued(tiny_bundle, lasting.url, producer),
        **QUICK | {"MARMOT_METRICS_PORT": str(free_port)},
    )
    producer.send(*events[:40])
    wait_until(lambda: _settled(producer) == 40, within_s=120)
    lasting.kill()
    producer.send(*events[40:])
    wait_until(lambda: _shown(free_port, "marmot_consume_pending_entries") > 0)
    had = producer.group["pending"]
    wait_until(lambda: _shown(free_port, "marmot_consume_lag_entries") == 80 - had)
    assert _shown(free_port, "marmot_consume_lag_seconds") > 0
    wait_until(lambda: _shown(free_port, 'marmot_consume_failures_total{where="store"}') > 0)
    lasting.start()
    wait_until(lambda: _settled(producer) == 120, within_s=120)
    running.send(signal.SIGTERM)
    code, out, err = running.ends()
    assert code == 0, err
    assert json.loads(out)["entries"] == 120
    assert producer.group["consumers"] == 0
    assert await timelines(tiny_bundle, lasting.url) == merged(events)


def _settled(producer: Producer) -> int:
    """Entries that were delivered and acknowledged."""
    try:
        group = producer.group
    except IndexError:
        return 0
    return int(group["entries-read"] or 0) - int(group["pending"])


def _shown(port: int, series: str) -> float:
    lines = plain.get(f"http://127.0.0.1:{port}/metrics").text.splitlines()
    (found,) = [line for line in lines if line.startswith(f"{series} ")]
    return float(found.rpartition(" ")[2])


async def test_lag(producer: Producer) -> None:
    """Lag tells what waits, what is pending, and how old the oldest of both is."""
    producer.send(*made(5))
    stream = EventStream(producer.url, group="g", consumer="c")
    try:
        await stream.open()
        await stream.open()  # a group that is there already is joined
        before = await stream.lag()
        assert (before.waiting, before.pending) == (5, 0)
        assert 0 <= before.seconds < 60
        first = await stream.read(2, 1.0)
        assert [await stream.reread(b"0-0", 9), await stream.reread(first[0].id, 9)] == [
            first,
            first[1:],
        ]
        between = await stream.lag()
        assert (between.waiting, between.pending) == (3, 2)
        await stream.leave()  # its name stays: entries are pending under it
        assert (await stream.lag()).pending == 2
        await stream.acknowledge([*first, *await stream.read(9, 1.0)])
        assert await stream.lag() == type(before)(0, 0, 0.0)
        await stream.leave()
        assert producer.group["consumers"] == 0
    finally:
        await stream.close()


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost",
        "redis://localhost?stream=",
        "redis://localhost?stream=a&stream=b",
        "lmdb:x?stream=a",
        "http://localhost?stream=a",
    ],
)
def test_urls_that_name_no_stream(url: str) -> None:
    """A URL without a server or without a stream is bad usage."""
    with pytest.raises(UsageError, match="--stream"):
        EventStream(url, group="g", consumer="c")
