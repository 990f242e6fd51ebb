"""`/v1/status`: how the service is, once and again."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from service.caller import QUIET
from service.errors import Draining, Overloaded
from service.feed import Feed
from tests import plain
from tests.servers import RedisServer, is_up


def looks(answer: httpx.Response) -> Iterator[dict[str, Any]]:
    for line in answer.iter_lines():
        if line.startswith("data: "):
            yield orjson.loads(line[6:])


def test_a_look(serve: Callable[..., Any], until: Callable[..., Any]) -> None:
    """It counts what /metrics counts, and says whether the store answers; it names no user."""
    running = serve()
    running.post({"user_id": "someone", "item_id": 1, "timestamp": 1})
    running.rank("someone", [1, 2])
    running.rank("other", [1])
    running.client.post("/v1/rank", json={})

    def look() -> Any:
        return running.client.get("/v1/status").json()

    until(lambda: look()["cache"].get("cold"))  # counted when the answer has gone
    found = look()
    assert (found["state"], found["workers"]) == ("ready", 1)
    assert found["model"] == running.house.registry.active.name
    assert found["store"]["kind"] == "lmdb"
    assert found["store"]["answers"] is True
    assert (found["cache"], found["events"]) == ({"hit": 1, "cold": 1}, {"appended": 1})
    assert found["problems"] == {"invalid-request": 1}
    (failed,) = [each for each in found["requests"] if each["status"] == "422"]
    assert (failed["route"], failed["count"]) == ("/v1/rank", 1)
    assert sum(count for _, count in found["seconds"]["routes"]["/v1/rank"]) == 3
    assert found["seconds"]["routes"]["/v1/rank"][-1] == [None, 0]
    assert found["runs"]["rank"]["runs"] >= 2
    assert b"someone" not in running.client.get("/v1/status").content


def test_a_store_that_is_away(serve: Callable[..., Any], own_redis: RedisServer) -> None:
    """A value, not a failure."""
    running = serve(cache=own_redis.url)
    assert running.client.get("/v1/status").json()["store"]["answers"]
    own_redis.kill()
    store = running.client.get("/v1/status").json()["store"]
    assert store == {"kind": "redis", "answers": False, "ping_ms": None}


def test_looks_keep_coming(serve: Callable[..., Any]) -> None:
    """Each shows what happened since; who watches is not in flight, and ranking stays alone."""
    running = serve()
    with running.client.stream("GET", "/v1/status/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        news = looks(answer)
        assert next(news)["cache"] == {}
        runs = running.house.registry.active.batcher.run
        alone: list[Any] = []
        running.house.registry.active.batcher.run = lambda job: alone.append(job) or runs(job)
        with plain.Client(running.url) as other:
            for _ in range(QUIET + 1):
                other.post("/v1/rank", json={"user_id": "u", "candidates": [1]})
        assert len(alone) == 1
        seen = next(look for look in news if look["cache"] == {"cold": QUIET + 1})
        assert seen["in_flight"] == 0


def test_so_many_may_watch(serve: Callable[..., Any], until: Callable[..., Any]) -> None:
    """One more is refused at once; when somebody has gone there is room."""
    running = serve()
    watchers = "<Feed, {} listening>".format
    with ExitStack() as stack:
        client = stack.enter_context(
            plain.Client(running.url, limits=httpx.Limits(max_connections=None))
        )

        def watch() -> httpx.Response:
            return stack.enter_context(client.stream("GET", "/v1/status/events"))

        watching = [watch() for _ in range(16)]
        until(lambda: repr(running.house.feed) == watchers(16))
        refused = watch()
        assert refused.status_code == 503
        assert refused.headers["retry-after"]
        watching[0].close()
        until(lambda: repr(running.house.feed) == watchers(15))
        late = watch()
        assert late.status_code == 200
        assert next(looks(late))
    until(lambda: repr(running.house.feed) == watchers(0))
    until(lambda: running.house.feed._looking is None)


def test_all_workers_together_until_the_end(
    marmot: Callable[..., Any], tiny_bundle: Path, tmp_path: Path, free_port: int, until: Any
) -> None:
    """A look has the counts of both workers; SIGTERM ends it and the service, with watchers."""
    command = marmot(
        "serve", "--bundle", tiny_bundle, "--cache", f"lmdb:{tmp_path}/cache",
        "--port", str(free_port), "--workers", "2", "--drain-s", "0.1",
    )  # fmt: skip
    url = f"http://127.0.0.1:{free_port}"
    until(lambda: is_up(url))
    with plain.stream(f"{url}/v1/status/events") as answer:
        for _ in range(12):
            plain.post(f"{url}/v1/rank", json={"user_id": "u", "candidates": [1]})
        news = looks(answer)
        seen = next(look for look in news if look["cache"].get("cold") == 12)
        assert seen["workers"] == 2
        command.send(signal.SIGTERM)
        list(news)
    assert command.ends()[0] in {0, -signal.SIGTERM}


async def test_nobody_looks_when_nobody_listens() -> None:
    """The first who listens begins it, the last who goes ends it, a closed feed tells no more."""
    taken = 0

    async def look() -> bytes:
        nonlocal taken
        taken += 1
        return b"%d" % taken

    feed = Feed(look, every_s=0.001, most=2)
    await asyncio.sleep(0.01)
    assert taken == 0
    one, two = feed.listen(), feed.listen()
    assert int(await anext(one)) <= int(await anext(two))
    with pytest.raises(Overloaded):
        feed.check()
    await one.aclose()
    assert int(await anext(two)) > 1
    await two.aclose()
    stopped = taken
    await asyncio.sleep(0.01)
    assert taken == stopped
    three = feed.listen()
    await anext(three)
    feed.close()
    assert [news async for news in three] == []
    with pytest.raises(Draining):
        feed.check()


async def test_a_look_that_fails_ends_the_feed_and_not_the_service() -> None:
    """Who listens is done, who comes later gets the next look."""
    fails = True

    async def look() -> bytes:
        if fails:
            raise ZeroDivisionError
        return b"fine"

    feed = Feed(look, every_s=0.001)
    assert [news async for news in feed.listen()] == []
    fails = False
    listening = feed.listen()
    assert await anext(listening) == b"fine"
    await listening.aclose()
