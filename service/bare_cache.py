"""The cache alone: what a fetch and an append take, and users to measure the service with.

    echo '{"work": "fetch", "dtype": "int8", "records": 100, "seconds": 1}' \
        | python -m service.bare_cache --bundle B --cache redis://localhost

Every line on stdin is answered with one line of JSON. `stock` gives users a timeline without
records: a service that is asked about them has to build these. `fetch` and `append` answer how
long each call took, nothing remembered from the one before; `size` what Redis holds of a user.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import sys
from collections.abc import Awaitable, Callable, Iterable
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from cache.base import Cache, Layout
from cache.keys import RedisKeys, owner_of
from cache.open import open_cache
from cache.timeline import Event
from models.bundle import Bundle, load_bundle
from models.spec import Spec

BEGAN_S = 1_000_000_000  # when the first event of every user was
STEP_S = 1_000
TIMEOUT_S = 30.0


def main(arguments: list[str] | None = None, questions: Iterable[str] = sys.stdin) -> None:
    """Answers until there are no more questions."""
    parser = argparse.ArgumentParser(prog="service.bare_cache", description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--cache", required=True)
    options = parser.parse_args(arguments)
    bundle = load_bundle(options.bundle)
    with asyncio.Runner() as runner:
        least_keep = bundle.spec.least_keep
        cache = runner.run(open_cache(options.cache, least_keep=least_keep, timeout_s=TIMEOUT_S))
        bare = BareCache(bundle, cache, options.cache)
        for line in questions:
            question = json.loads(line)
            answer = runner.run(bare.answer(**question))
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()
        runner.run(cache.close())


class BareCache:
    """One store, and users made up in it."""

    def __init__(self, bundle: Bundle, cache: Cache, url: str) -> None:
        self._bundle = bundle
        self._cache = cache
        self._url = url
        self._users: dict[tuple[str, int], str] = {}

    async def answer(self, work: str, **question: Any) -> dict[str, Any]:
        """Does one of the things below."""
        works: dict[str, Callable[..., Awaitable[dict[str, Any]]]] = {
            "stock": self.stock,
            "fetch": self.fetch,
            "append": self.append,
            "size": self.size,
        }
        return await works[work](**question)

    async def stock(self, users: list[str], events: int) -> dict[str, Any]:
        """Whatever was known of the users goes; they get a timeline, and no records."""
        timeline = self._events(events)
        for user in users:
            await self._cache.forget(user)
            await self._write(user, timeline, None)
        return {"stocked": len(users)}

    async def fetch(self, dtype: str, records: int, seconds: float) -> dict[str, Any]:
        """Seconds that each fetch of so many events and their records took."""
        layout, user = await self._user(dtype, records)

        async def work() -> float:
            began = perf_counter()
            found = await self._cache.fetch(user, limit=records, layout=layout)
            took = perf_counter() - began
            if int(found.valid.sum()) != records:
                raise RuntimeError(f"{records} records were stored, not {found.valid.sum()} found.")
            return took

        return {"took_s": await _turn(work, seconds)}

    async def append(self, dtype: str, records: int, seconds: float) -> dict[str, Any]:
        """Seconds that each append of one event and its record took, the fetch before it apart."""
        layout, user = await self._user(dtype, records)
        found = await self._cache.fetch(user, limit=1, layout=layout)
        later = count(int(found.timeline.timestamps[-1]) + STEP_S, STEP_S)

        async def work() -> float:
            event = Event(self._bundle.vocabulary.ids[0], next(later))
            return await self._write(user, [event], layout)

        return {"took_s": await _turn(work, seconds)}

    async def size(self, dtype: str, records: int) -> dict[str, Any]:
        """Bytes of a user in Redis; None in a store that cannot say."""
        layout, user = await self._user(dtype, records)
        depths = {"cached_depths": self._bundle.spec.cached_depths}
        if self._url.startswith("lmdb:"):
            return {**depths, "record_bytes": None, "timeline_bytes": None}
        from redis.asyncio import Redis  # noqa: PLC0415  (only Redis counts for us)

        place = RedisKeys(owner_of(user))
        async with Redis.from_url(self._url) as redis:
            rows, *rest = [
                await redis.memory_usage(key, samples=0) or 0
                for key in (place.rows(layout.fingerprint), place.timeline, place.index)
            ]
        return {**depths, "record_bytes": rows, "timeline_bytes": sum(rest)}

    async def _user(self, dtype: str, records: int) -> tuple[Layout, str]:
        """Somebody with so many records of that type, made when first asked for."""
        spec = dataclasses.replace(self._bundle.spec, cache_dtype=dtype)
        layout = _layout(spec, records)
        user = f"bench-{dtype}-{records}"
        if (dtype, records) not in self._users:
            await self._cache.forget(user)
            await self._write(user, self._events(records), layout)
            self._users[dtype, records] = user
        return layout, user

    async def _write(self, user: str, events: list[Event], layout: Layout | None) -> float:
        """Merges events into a user, with made-up records if there is a layout; seconds."""
        limit = (layout.reach if layout else None) or 1
        snapshot = await self._cache.fetch(user, limit=limit, layout=layout, around=events)
        change = snapshot.merge(events)
        if layout is not None:
            rows = change.rows.copy()
            made_up = rows[change.changed :].view(np.uint8)
            made_up[:] = np.random.default_rng(0).integers(0, 256, made_up.shape, np.uint8)
            change = change.with_rows(rows, np.ones(len(rows), np.bool_))
        began = perf_counter()
        await self._cache.append(change)
        return perf_counter() - began

    def _events(self, events: int) -> list[Event]:
        ids = self._bundle.vocabulary.ids
        return [Event(ids[n % len(ids)], BEGAN_S + STEP_S * n) for n in range(events)]


def _layout(spec: Spec, records: int) -> Layout:
    """A layout that keeps all of the records, under a name of its own."""
    name = f"{spec.cache_dtype}{records}".encode().hex()
    return Layout(name[:8] + name[-8:], spec.row, records)


async def _turn(work: Callable[[], Awaitable[float]], seconds: float) -> list[float]:
    await work()
    took: list[float] = []
    end = perf_counter() + seconds
    while perf_counter() < end or not took:
        took.append(await work())
    return took


if __name__ == "__main__":
    main()
