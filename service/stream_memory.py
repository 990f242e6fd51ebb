"""The serving cache as the memory of streaming training.

What a mini-batch makes waits beside the store, and is read from there, until the next checkpoint:
so the store never has records that no checkpoint knows of, and who resumes finds what it left.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from cache.base import Cache
from cache.layout import Layout
from cache.open import open_cache
from cache.snapshot import Snapshot
from cache.timeline import UNKNOWN, Event, FeedbackColumn, Timeline
from models.spec import Spec
from models.stream_memory import Coming, Known, Traffic
from service.errors import NotOurs
from service.lineage import join_as

Array = np.ndarray[Any, Any]

AT_ONCE = 64
TIMEOUT_S = 30.0
#: Bytes of an event's time and hash; ids and a label of each task come on top.
EVENT_BYTES = 12


class StreamMemory:
    """Timelines and records in a store, and what it does not have yet."""

    def __init__(
        self,
        cache: Cache,
        runner: asyncio.Runner,
        spec: Spec,
        fingerprint: str,
        *,
        elder: str | None = None,
    ) -> None:
        self._cache, self._spec = cache, spec
        # `Runner.run` writes what a task answered, arrays and all, into a text that nobody reads
        # (CPython 3.11: `getsignal` asks an enum about its handler).
        self._run = runner.get_loop().run_until_complete
        self._layout = Layout(fingerprint, spec.row, spec.reach)
        self._elder = Layout(elder, spec.row, spec.reach) if elder else None
        self._near: dict[str, Known] = {}
        self._pending: dict[str, list[tuple[Coming, Array]]] = {}
        self.traffic = Traffic()

    def __repr__(self) -> str:
        return f"<StreamMemory {len(self._pending)} users not stored yet>"

    def is_empty(self) -> bool:
        """Whether the store has nobody."""
        return self._run(self._has_nobody())

    def read(self, coming: Sequence[Coming]) -> list[Known]:
        """The newest window of each user's events. `NotOurs` if some of them are not before."""
        far = [new for new in coming if new.user_id not in self._near]
        for new, known in zip(far, self._run(self._fetch(far)), strict=True):
            self._near[new.user_id] = known
        return [self._near[new.user_id] for new in coming]

    def write(self, coming: Sequence[Coming], rows: Sequence[Array]) -> None:
        for new, made in zip(coming, rows, strict=True):
            self._pending.setdefault(new.user_id, []).append((new, made))
            old = self._near[new.user_id]
            self._near[new.user_id] = Known(
                (*old.item_ids, *new.item_ids),
                np.concatenate([old.timestamps, new.timestamps]),
                np.concatenate([old.feedback, new.labels]),
                np.concatenate([old.rows, made]),
                np.concatenate([old.valid, np.ones(len(made), np.bool_)]),
            ).last(self._spec.window)

    def pending(self) -> list[tuple[Coming, Array]]:
        return [part for parts in self._pending.values() for part in parts]

    def restore(self, pending: Sequence[tuple[Coming, Array]]) -> None:
        """Takes up what a checkpoint says was pending, and stores it."""
        for new, made in pending:
            self._pending.setdefault(new.user_id, []).append((new, made))
        self.flush()

    def flush(self) -> None:
        self._run(self._store())
        self._pending.clear()
        self._near.clear()

    def join(self, lineage: str) -> None:
        """Lets servers of the same lineage borrow these records: `serve --stale-ok-s`."""
        self._run(join_as(self._cache, lineage, self._layout.fingerprint, self._spec))

    async def _has_nobody(self) -> bool:
        async for _ in self._cache.users():
            return False
        return True

    async def _fetch(self, coming: Sequence[Coming]) -> list[Known]:
        found = []
        for start in range(0, len(coming), AT_ONCE):
            some = coming[start : start + AT_ONCE]
            found += await asyncio.gather(*(self._known(new) for new in some))
        return found

    async def _known(self, new: Coming) -> Known:
        window = self._spec.window
        read = await self._cache.fetch(new.user_id, limit=window, layout=self._layout)
        self._count(read)
        if self._elder and len(read.timeline) and not read.valid.any():
            read = await self._cache.fetch(new.user_id, limit=window, layout=self._elder)
            self._count(read)
        timeline = read.timeline
        first = Event(new.item_ids[0], int(new.timestamps[0])).key
        if len(timeline) and timeline.key(len(timeline) - 1) >= first:
            raise NotOurs(
                f"the store has events of user {new.user_id} that are not before those of the "
                "stream: give it a store of its own, or only newer events"
            )
        labels = timeline.labels(self._spec.tasks)
        return Known(timeline.item_ids, timeline.timestamps, labels, read.rows, read.valid)

    def _count(self, read: Snapshot) -> None:
        self.traffic.reads += 1
        self.traffic.read_bytes += _bytes(read.timeline, self._spec) + int(
            read.valid.sum() * self._spec.row.itemsize
        )

    async def _store(self) -> None:
        users = list(self._pending)
        for start in range(0, len(users), AT_ONCE):
            await asyncio.gather(*(self._append(user) for user in users[start : start + AT_ONCE]))

    async def _append(self, user_id: str) -> None:
        parts = self._pending[user_id]
        events = Timeline.concat([_timeline(new, self._spec.tasks) for new, _ in parts])
        made = np.concatenate([rows for _, rows in parts])
        limit = self._spec.window + len(events)
        found = await self._cache.fetch(user_id, limit=limit, layout=self._layout, around=events)
        change = found.merge(events)
        # They are the user's newest, of which the store keeps so many.
        count = min(len(events), len(change.timeline))
        if not np.array_equal(change.timeline.hashes[-count:], events.hashes[-count:]):
            raise RuntimeError(
                f"This is a bug: events of {user_id} are not the newest in the store."
            )
        rows, valid = change.rows.copy(), change.valid.copy()
        rows[-count:], valid[-count:] = made[-count:], True
        await self._cache.append(change.with_rows(rows, valid))
        self.traffic.writes += 1
        self.traffic.written_bytes += made.nbytes + _bytes(events, self._spec)


def _timeline(new: Coming, tasks: Sequence[str]) -> Timeline:
    """The same events, as the cache has them."""
    known = {
        task: FeedbackColumn(new.labels[:, place].copy(), new.said_at[:, place].copy())
        for place, task in enumerate(tasks)
        if (new.labels[:, place] != UNKNOWN).any()
    }
    return Timeline.of_columns(new.item_ids, new.timestamps.copy(), known)


def _bytes(timeline: Timeline, spec: Spec) -> int:
    each = EVENT_BYTES + len(spec.tasks)
    return len(timeline) * each + sum(map(len, timeline.item_ids))


@contextmanager
def open_memory(
    url: str, spec: Spec, fingerprint: str, elder: str | None = None
) -> Iterator[StreamMemory]:
    """The memory in the store at a cache's URL."""
    with asyncio.Runner() as runner:
        cache = runner.run(open_cache(url, least_keep=spec.least_keep, timeout_s=TIMEOUT_S))
        try:
            yield StreamMemory(cache, runner, spec, fingerprint, elder=elder)
        finally:
            runner.run(cache.close())
