"""What was shown and what came of it, into the store: fetch, merge, compute rows, append."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import perf_counter

from cache.base import Cache
from cache.errors import CacheMismatch, CacheUnavailable, StaleVersion
from cache.sent import Sent
from cache.snapshot import Change
from service.errors import (
    Contended,
    DeadlineExceeded,
    EngineFailed,
    Overloaded,
    StoreAway,
)
from service.features import History
from service.job import Lane
from service.rebuild import Plan, plan_rebuild, rebuild
from service.registry import Model
from service.summaries import Adding, renewed
from service.timings import Timings

FIRST_PAUSE_S = 0.002
LONGEST_PAUSE_S = 0.1


@dataclass(frozen=True, slots=True)
class Recorded:
    """What became of a user's events, in their order, and the user's version after them."""

    statuses: Sequence[str]
    version: int


class Recorder:
    """Writes events; an acknowledged event is a stored one."""

    def __init__(
        self,
        cache: Cache,
        *,
        deadline_s: float = 5.0,
        lane: Lane = Lane.EVENT,
        refresh_s: float = 0.0,
    ) -> None:
        self._cache = cache
        self._refresh_s = refresh_s
        self._deadline_s = deadline_s
        self._lane = lane
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}

    def __repr__(self) -> str:
        return f"<Recorder writing {len(self._locks)} users>"

    async def record(self, model: Model, user_id: str, events: Sent, timings: Timings) -> Recorded:
        """Stores a user's events; whoever overtakes us makes us read and merge again."""
        deadline = min(perf_counter() + self._deadline_s, timings.deadline)
        pause_s = FIRST_PAUSE_S
        async with self._alone(user_id):
            while True:
                if perf_counter() > timings.deadline:
                    raise DeadlineExceeded("The deadline passed; nothing was stored")
                try:
                    return await self._attempt(model, user_id, events, deadline, timings)
                except StaleVersion:
                    if perf_counter() + pause_s > deadline:
                        raise Contended from None
                    await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311
                    pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
                except (CacheUnavailable, CacheMismatch) as error:
                    raise StoreAway from error

    async def forget(self, user_id: str) -> None:
        """Removes every trace of the user."""
        try:
            await self._cache.forget(user_id)
        except (CacheUnavailable, CacheMismatch) as error:
            raise StoreAway from error

    async def _attempt(
        self,
        model: Model,
        user_id: str,
        events: Sent,
        deadline: float,
        timings: Timings,
    ) -> Recorded:
        change = await self._merged(model, user_id, events, model.spec.rewrites, timings)
        if not plan_change(model, change).is_exact:
            # The rows around the change are gone: they need the ids of every layer's window.
            limit = model.spec.rewrites + model.spec.record_field
            change = await self._merged(model, user_id, events, limit, timings)
        if model.spec.summary:
            adding = Adding(model, self._lane, deadline, timings)
            change = await renewed(adding, change, self._refresh_s, time.time())
        else:
            change = await self._with_rows(model, change, deadline, timings)
        began = perf_counter()
        version = await self._cache.append(change)
        timings.cache += perf_counter() - began
        return Recorded(change.statuses, version)

    async def _merged(
        self, model: Model, user_id: str, events: Sent, limit: int, timings: Timings
    ) -> Change:
        began = perf_counter()
        snapshot = await self._cache.fetch(user_id, limit=limit, layout=model.layout, around=events)
        timings.cache += perf_counter() - began
        return snapshot.merge(events)

    async def _with_rows(
        self, model: Model, change: Change, deadline: float, timings: Timings
    ) -> Change:
        plan = plan_change(model, change)
        if plan.is_empty or not plan.is_exact:
            return change
        history = History.of(change.timeline, model.bundle.vocabulary, model.spec.tasks)
        try:
            built = await rebuild(
                plan,
                history,
                change.rows,
                batcher=model.batcher,
                spec=model.spec,
                lane=self._lane,
                deadline=deadline,
                timings=timings,
            )
        except (Overloaded, DeadlineExceeded, EngineFailed):
            return change  # the event is worth more than its row, which a request can rebuild
        return change.with_rows(*plan.fill(change.rows, change.valid, built))

    @asynccontextmanager
    async def _alone(self, user_id: str) -> AsyncIterator[None]:
        """One writer per user in this process; others would only make it stale."""
        lock, holders = self._locks.get(user_id, (asyncio.Lock(), 0))
        self._locks[user_id] = (lock, holders + 1)
        try:
            async with lock:
                yield
        finally:
            lock, holders = self._locks.pop(user_id)
            if holders > 1:
                self._locks[user_id] = (lock, holders - 1)


def plan_change(model: Model, change: Change) -> Plan:
    """What gives the newest events of a merged timeline their rows: the new ones, and a few more.

    Late ones further back are left to the requests that read them.
    """
    spec, events = model.spec, len(change.timeline)
    wanted = max(spec.rewrites, change.statuses.count("appended"))
    snapshot = change.snapshot
    trimmed = snapshot.trimmed or (change.merged is not None and change.merged.has_trimmed)
    return plan_rebuild(
        change.valid,
        need_from=max(0, events - min(wanted, spec.reach)),
        begins=snapshot.complete and not trimmed,
        spec=spec,
    )
