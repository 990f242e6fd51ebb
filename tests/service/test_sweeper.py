"""Expired rows leave a store that expires nothing by itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import lmdb
import pytest

from cache.base import Sweeps
from cache.errors import CacheUnavailable
from cache.redis_cache import RedisCache
from service.sweeper import Sweeper
from tests import plain
from tests.servers import is_up


class Rows:
    """A store whose sweeps are told one by one; the first of them fails."""

    def __init__(self, error: Exception) -> None:
        self.error: Exception | None = error
        self.steps: asyncio.Queue[int] = asyncio.Queue()
        self.is_closed = False

    async def sweep(self) -> AsyncGenerator[int, None]:
        error, self.error = self.error, None
        if error:
            raise error
        try:
            while True:
                self.steps.put_nowait(1)
                yield 1
                await asyncio.sleep(0)
        finally:
            self.is_closed = True


@pytest.mark.parametrize("error", [CacheUnavailable("away"), ValueError("a bug")])
async def test_a_sweep_that_fails_is_not_the_last(error: Exception) -> None:
    """What goes wrong is logged, and the next sweep comes as if nothing had been."""
    rows = Rows(error)
    sweeper = Sweeper(rows, every_s=0.001)
    await asyncio.wait_for(rows.steps.get(), 60)
    await sweeper.close()
    assert rows.error is None


async def test_a_sweep_ends_with_its_step() -> None:
    """Closing waits for the transaction under way and for no more of them."""
    rows = Rows(CacheUnavailable("away"))
    sweeper = Sweeper(rows, every_s=0.001)
    await asyncio.wait_for(rows.steps.get(), 60)
    assert "open" in repr(sweeper)
    await asyncio.wait_for(sweeper.close(), 60)
    assert rows.is_closed
    assert "closed" in repr(sweeper)


async def test_nothing_is_swept_before_its_time() -> None:
    """The first sweep comes after one interval, and closing does not wait for it."""
    rows = Rows(CacheUnavailable("away"))
    sweeper = Sweeper(rows, every_s=3_600)
    await asyncio.sleep(0)
    await asyncio.wait_for(sweeper.close(), 60)
    assert rows.error is not None


def test_redis_expires_by_itself() -> None:
    """Only a store that asks for it is swept."""
    assert not isinstance(RedisCache("redis://127.0.0.1:1/0"), Sweeps)


def test_the_service_sweeps(serve: Any, until: Callable[..., Any]) -> None:
    """Rows that nobody asks for are deleted once they expire; timelines stay."""
    running = serve(sweep_every_s=0.01)
    store = running.house.cache
    running.post(*({"user_id": f"u{at}", "item_id": 1, "timestamp": at} for at in range(9)))
    assert kinds_in(store._env).count("rows") == 9
    store._clock = lambda: time.time() + running.house.settings.record_ttl_s + 1
    until(lambda: "rows" not in kinds_in(store._env))
    assert running.rank("u3", [1, 2])["cache"]["state"] == "partial"


def kinds_in(env: Any) -> list[str]:
    names = {b"r": "rows", b"h": "head"}
    with env.begin() as txn:
        return [names.get(key[:1], "else") for key, _ in txn.cursor()]


def test_workers_sweep_one_store_at_once(
    marmot: Any, tiny_bundle: Path, tmp_path: Path, free_port: int, until: Callable[..., Any]
) -> None:
    """Two workers that sweep all the time delete expired rows only, and no answer fails."""
    url, store = f"http://127.0.0.1:{free_port}", tmp_path / "cache"
    command = marmot(
        "serve", "--bundle", tiny_bundle, "--cache", f"lmdb:{store}", "--port", str(free_port),
        "--workers", "2", "--record-ttl-s", "1", "--drain-s", "0", MARMOT_SWEEP_EVERY_S="0.005",
    )  # fmt: skip
    until(lambda: is_up(url) or command.process.poll() is not None)
    with plain.Client(url) as client:
        for at in range(80):
            events = [{"user_id": f"u{at % 8}", "item_id": at % 60, "timestamp": at}]
            assert client.post("/v1/events", json={"events": events}).status_code == 200
        with lmdb.open(str(store), readonly=True) as env:
            until(lambda: "rows" not in kinds_in(env))
            assert kinds_in(env).count("head") == 8
        answer = client.post("/v1/rank", json={"user_id": "u7", "candidates": [1, 2]}).json()
    assert (answer["cache"]["state"], answer["cache"]["recomputed"]) == ("partial", 8)
    assert answer["degraded"] == []
    command.stop()
