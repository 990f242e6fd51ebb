"""A store that dies, goes silent, slows down or cuts its replies: ranking goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.drills.load import Load
from tests.drills.proxy import Proxy, running_proxy
from tests.servers import RedisServer, running_redis

PROBES_PER_S = 4
BEFORE_OPEN = 5
"""Failures in a row that open the breaker; then one request in each quarter of a second waits."""


def is_spared(load: Load) -> bool:
    """Whether no more requests had to do with the store than the breaker lets through."""
    return load.asked <= 2 * BEFORE_OPEN + PROBES_PER_S * (load.away_s + 1)


@pytest.fixture
def durable_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A server that has on disk what it has acknowledged."""
    with running_redis(tmp_path, "--appendonly", "yes", "--appendfsync", "always") as server:
        yield server


@pytest.fixture
def proxy(own_redis: RedisServer) -> Iterator[Proxy]:
    with running_proxy(own_redis.port) as found:
        yield found


def test_kill(
    serve_as_deployed: Callable[..., Any],
    durable_redis: RedisServer,
    away_s: float,
    passed: Callable[..., Any],
) -> None:
    """kill -9: candidates alone are ranked, events refused, and both back within 2 s."""
    with Load(serve_as_deployed(cache=durable_redis.url)) as load:
        durable_redis.kill()
        load.hold(away_s)
        durable_redis.start()
        load.until_back()
    outcome = passed(f"kill -9, {away_s:.0f} s", load)
    assert outcome.away
    assert outcome.refused
    assert is_spared(load)


def test_silence(
    serve_as_deployed: Callable[..., Any],
    own_redis: RedisServer,
    away_s: float,
    passed: Callable[..., Any],
) -> None:
    """SIGSTOP: a few requests pay the budget, the others nothing."""
    with Load(serve_as_deployed(cache=own_redis.url)) as load:
        own_redis.pause()
        load.hold(away_s)
        own_redis.resume()
        load.until_back()
    outcome = passed(f"SIGSTOP, {away_s:.0f} s", load)
    assert outcome.away
    assert is_spared(load)


def test_slowness(
    serve_as_deployed: Callable[..., Any],
    proxy: Proxy,
    away_s: float,
    passed: Callable[..., Any],
) -> None:
    """Answers after 50 ms: too late for ranking, while events are all stored."""
    with Load(serve_as_deployed(cache=proxy.url)) as load:
        proxy.delay_s = 0.05
        load.hold(away_s)
        proxy.delay_s = 0.0
        load.until_back()
    outcome = passed(f"answers after 50 ms, {away_s:.0f} s", load)
    assert outcome.away
    assert outcome.refused == outcome.excused
    assert is_spared(load)


@pytest.mark.parametrize(
    "cut_after", [3, *(pytest.param(size, marks=pytest.mark.drill) for size in (0, 40))]
)
def test_cut_replies(
    serve_as_deployed: Callable[..., Any],
    proxy: Proxy,
    cut_after: int,
    passed: Callable[..., Any],
) -> None:
    """Connections reset in the middle of a reply: no half of it is believed."""
    with Load(serve_as_deployed(cache=proxy.url)) as load:
        proxy.cut_after = cut_after
        load.hold(0.5)
        proxy.cut_after = None
        load.until_back()
    outcome = passed(f"reset after {cut_after} bytes of a reply", load)
    assert outcome.away


def test_inline_history_needs_no_store(
    serve_as_deployed: Callable[..., Any], own_redis: RedisServer
) -> None:
    """A request that brings its history is answered from it, store or no store."""
    running = serve_as_deployed(cache=own_redis.url)
    history = [{"item_id": at, "timestamp": at} for at in range(9)]
    before = running.rank("u", [1, 2], history=history, timestamp=99)
    own_redis.kill()
    after = running.rank("u", [1, 2], history=history, timestamp=99)
    assert (after["scores"], after["degraded"]) == (before["scores"], [])
    assert after["cache"]["state"] == "inline"
