"""Timelines from a store into a dump, and from a dump into a store. No model is needed for either.

A restore merges as events do: it may be repeated, interrupted and begun again, or go into a store
that has users already. Records do not travel; they are computed again when a user is asked for.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

from cache.base import Cache
from cache.dump import Dump, Part, first_line, last_line, user_lines
from cache.errors import BadCacheUrl, CacheError, CacheMismatch, CacheUnavailable, StaleVersion
from cache.open import open_cache
from cache.snapshot import Snapshot
from service.errors import NotMoved, UsageError

T = TypeVar("T")

AT_ONCE = 64
TIMEOUT_S = 30.0
WHOLE = 2**31 - 1
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.002, 0.1

#: Called with how many users or lines are done.
Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Moved:
    """What went through. A user who came twice while the store was listed counts twice."""

    users: int
    events: int
    damaged: int = 0
    """Users whose timeline could not be read; it was put aside, as whenever one is asked for."""


async def dump(url: str, out: BinaryIO, progress: Progress) -> Moved:
    """Writes every timeline of a store; users that come or go meanwhile may be missed."""
    if url.startswith("lmdb:") and not (Path(url.removeprefix("lmdb:")) / "data.mdb").exists():
        raise UsageError(f"there is no store at {url.removeprefix('lmdb:')}")
    users = lines = events = damaged = 0
    cache = await _opened(url)
    try:
        async for snapshots in _batches(cache):
            if not users:
                out.write(first_line(snapshots[0].keep))
            for snapshot in snapshots:
                damaged += snapshot.quarantined
                timeline = snapshot.timeline
                for line in user_lines(snapshot.user_id, timeline, trimmed=snapshot.trimmed):
                    out.write(line)
                    lines += 1
                users, events = users + 1, events + len(timeline)
            progress(users)
    except CacheError as error:
        raise NotMoved(f"{error} The dump is not whole.") from error
    finally:
        await cache.close()
    if not users:
        out.write(first_line(None))
    out.write(last_line(lines, events))
    return Moved(users, events, damaged)


async def restore(url: str, found: Dump, progress: Progress, *, keep: int | None = None) -> Moved:
    """Merges a dump into a store; one that keeps fewer events must be asked for by `keep`."""
    users = events = 0
    last: str | None = None
    waiting = iter(found)
    cache = await _open_for(url, found.keep, keep)
    try:
        while batch := list(islice(waiting, AT_ONCE)):
            by_user = [list(parts) for _, parts in groupby(batch, lambda part: part.user_id)]
            await _all([_restore(cache, parts) for parts in by_user])
            users += len(by_user) - (by_user[0][0].user_id == last)
            events += sum(len(part.events) for part in batch)
            last = batch[-1].user_id
            progress(users)
    except CacheError as error:
        raise NotMoved(f"{error}; {users:,} users are restored, and may be again") from error
    finally:
        await cache.close()
    return Moved(users, events)


async def _batches(cache: Cache) -> AsyncIterator[list[Snapshot]]:
    """Users with all their events, many at a time; who has none any more is left out."""
    waiting: list[str] = []

    async def read() -> list[Snapshot]:
        found = await _all([cache.fetch(user, limit=WHOLE) for user in waiting])
        waiting.clear()
        return [each for each in found if len(each.timeline) or each.quarantined]

    async for user in cache.users():
        waiting.append(user)
        if len(waiting) == AT_ONCE and (found := await read()):
            yield found
    if found := await read():
        yield found


async def _restore(cache: Cache, parts: Sequence[Part]) -> None:
    """One user's parts, in order; whoever else writes the user makes us read and merge again."""
    waiting = deque(part for part in parts if part.events)
    pause_s = FIRST_PAUSE_S
    while waiting:
        part = waiting[0]
        snapshot = await cache.fetch(part.user_id, limit=1, around=part.events)
        try:
            await cache.append(snapshot.merge(part.events, after_trimming=part.trimmed))
            waiting.popleft()
        except StaleVersion:
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


async def _all(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """All results; a failure is raised when nothing is under way any more."""
    found = await asyncio.gather(*works, return_exceptions=True)
    for each in found:
        if isinstance(each, BaseException):
            raise each
    return cast("list[T]", found)


async def _open_for(url: str, dumped: int | None, keep: int | None) -> Cache:
    """The store, keeping as many events as asked for; else as the dump's, or as many as it does."""
    try:
        return await _agreed(url, keep=dumped if keep is None else keep)
    except CacheMismatch as error:
        if keep is not None or dumped is None:
            raise UsageError(str(error)) from error
    try:
        return await _agreed(url, least_keep=dumped)
    except CacheMismatch as error:
        raise UsageError(
            f"the dump has up to {dumped} events of each user, and the store keeps fewer: "
            "say how many with --keep"
        ) from error


async def _agreed(url: str, *, keep: int | None = None, least_keep: int = 1) -> Cache:
    """A store that answers; raises `CacheMismatch` if it keeps another number of events."""
    cache = await _opened(url, keep=keep, least_keep=least_keep)
    try:
        await cache.ping()
    except CacheMismatch:
        await cache.close()
        raise
    except CacheError as error:
        await cache.close()
        raise NotMoved(str(error)) from error
    return cache


async def _opened(url: str, *, keep: int | None = None, least_keep: int = 1) -> Cache:
    try:
        return await open_cache(url, keep=keep, least_keep=least_keep, timeout_s=TIMEOUT_S)
    except BadCacheUrl as error:
        raise UsageError(str(error)) from error
    except CacheUnavailable as error:
        raise NotMoved(str(error)) from error
