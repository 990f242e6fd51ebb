"""Summaries: what a user's older events come to, kept up to date or made again from the timeline.

A summary is exact when fewer than `refresh_events` visible events follow what it covers; the
window shows those. It is continued where it ends, so that a posted event costs what it is alone;
what is missing or untrue is made again by walking the timeline, a stretch at a time.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

from cache.base import Cache
from cache.errors import CacheMismatch, CacheUnavailable, StaleVersion
from cache.snapshot import Change, Snapshot
from cache.stretch import Stretch
from cache.summary import Summary
from cache.timeline import Timeline
from models.spec import Spec
from service.chores import Chores
from service.errors import DeadlineExceeded, EngineFailed, Overloaded
from service.features import History
from service.job import Array, Job, Lane
from service.registry import Model
from service.timings import Timings

STRETCH = 1_024
"""Events in one run: ranking need not wait long behind it."""

PAGE = 4_096
"""Events read at once, and put into the store as a summary of so many more."""

AT_ONCE = 10_000
"""Unseen events that a request takes in itself; more of them are left to a chore."""

PAUSE_S = 0.05
MOST_FAILURES = 100


@dataclass(frozen=True, slots=True)
class Standing:
    """How a stored summary stands to the events that a request sees."""

    summary: Summary | None
    unseen: int
    is_exact: bool

    @property
    def covered(self) -> int:
        return self.summary.covers if self.summary else 0


def standing(snapshot: Snapshot, spec: Spec, upto: int | None) -> Standing:
    """Finds the end of a summary among the newest events; pure."""
    visible, tail = snapshot.timeline, snapshot.stored.timeline
    if snapshot.complete and not snapshot.trimmed and len(visible) < spec.refresh_events:
        return Standing(None, len(visible), is_exact=True)
    stop = snapshot.skipped + len(visible)
    summary, head = snapshot.summary, snapshot.stored.head
    count = max((head.count if head else 0) - snapshot.stored.newer - (len(tail) - stop), 0)
    if summary is not None and len(tail):
        end = summary.end_in(tail)
        if end is not None and end <= stop:
            return Standing(summary, stop - end, is_exact=stop - end < spec.refresh_events)
        is_before_tail = summary.last < tail.key(0)
        if end is None and is_before_tail and (upto is None or _time_of(summary) <= upto):
            return Standing(summary, max(count - summary.covers, 0), is_exact=False)
    return Standing(None, count, is_exact=False)


def _time_of(summary: Summary) -> int:
    return int.from_bytes(summary.last[:8], "big")


@dataclass(frozen=True, slots=True)
class Adding:
    """The engine, and who waits for it."""

    model: Model
    lane: Lane
    deadline: float | None = None
    timings: Timings | None = None

    @property
    def step(self) -> int:
        return self.model.spec.refresh_events

    def whole(self, events: int) -> int:
        """How many of so many events a summary covers."""
        return events // self.step * self.step

    def history(self, timeline: Timeline) -> History:
        return History.of(timeline, self.model.bundle.vocabulary, self.model.spec.tasks)

    async def add(self, row: Array | None, history: History, start: int) -> Array:
        """A summary's row with a history's events from `start` on; the one before links them."""
        spec = self.model.spec
        if row is None:
            row = np.zeros((), spec.summary_row)
        before = np.concatenate([[-1], history.items[:-1]])
        gaps = np.diff(history.timestamps, prepend=history.timestamps[:1])
        for first in range(start, len(history), STRETCH):
            span = slice(first, min(first + STRETCH, len(history)))
            row = await self._run(row, history[span], before[span], gaps[span])
        return row

    async def _run(self, row: Array, history: History, before: Array, gaps: Array) -> Array:
        if self.deadline is not None and perf_counter() > self.deadline:
            raise DeadlineExceeded
        feed = {
            "state": row["state"],
            "items": history.items,
            "before": before,
            "gaps_s": gaps,
            "feedback": history.feedback,
            "present": np.ones(len(history), np.int8),
        }
        sizes = {"events": len(history), "records": 0}
        job = Job("summarise", feed, sizes, self.lane, self.deadline)
        outputs = await self.model.batcher.submit(job)
        if self.timings is not None:
            self.timings.queue += job.queue_s
            self.timings.run += job.run_s
        added: np.ndarray[Any, Any] = np.zeros((), row.dtype)
        # A graph cannot call an output like an input, so the fields are told by their order.
        for name, output in zip(row.dtype.names or (), outputs.values(), strict=True):
            added[name] = output
        return added

    async def continued(self, summary: Summary | None, timeline: Timeline) -> Summary | None:
        """The summary with as many whole steps more as a part of the timeline has.

        The part begins at or before the summary's last event, or with the first of all; where it
        does not, the summary is not true, and there is none.
        """
        end = 0 if summary is None else summary.end_in(timeline)
        if end is None:
            return None
        more = self.whole(len(timeline) - end)
        if not more:
            return summary
        first = max(end - 1, 0)  # the event that links them
        history = self.history(timeline[first : end + more])
        row = await self.add(None if summary is None else summary.row, history, end - first)
        covers = more + (summary.covers if summary else 0)
        return Summary.upto(timeline, end + more, row, covers)


def fed(spec: Spec, summary: Array | None, covered: int) -> dict[str, Array]:
    """What the rank graph reads of a summary's row, or of none."""
    row = np.zeros((), spec.summary_row) if summary is None else summary
    fields = {name: row[name] for name in spec.summary_row.names or () if name != "state"}
    return {**fields, "covered": np.asarray(covered)}


async def renewed(adding: Adding, change: Change, refresh_s: float, now_s: float) -> Change:
    """A change with the summary that goes with it, if the events that it needs are at hand.

    Where they are not, the event is worth more than its summary, which a request can make again.
    """
    snapshot, summary = change.snapshot, change.summary
    if summary is None:
        trimmed = snapshot.trimmed or (change.merged is not None and change.merged.has_trimmed)
        if trimmed or not snapshot.complete:
            return change
    elif refresh_s and now_s - summary.written_at_s < refresh_s:
        return change
    try:
        found = await adding.continued(summary, change.timeline)
    except (Overloaded, DeadlineExceeded, EngineFailed):
        return change
    return change if found is None or found is summary else change.with_summary(found)


@dataclass(frozen=True, slots=True)
class Found:
    """What a request reads of a user's older events."""

    summary: Summary | None
    unseen: int
    recomputed: int
    is_exact: bool

    @property
    def covered(self) -> int:
        return self.summary.covers if self.summary else 0


def behind(stands: Standing) -> Found:
    """What is stored, however much of the timeline it has not seen."""
    return Found(stands.summary, stands.unseen, 0, is_exact=stands.is_exact)


class Moved(Exception):
    """The user was written while the timeline was walked."""


class Summaries:
    """Finds the summary that goes with a request, and makes it anew where that takes little."""

    def __init__(
        self, cache: Cache, chores: Chores, clock: Callable[[], float], *, refresh_s: float = 0.0
    ) -> None:
        self._cache = cache
        self._chores = chores
        self._clock = clock
        self._refresh_s = refresh_s

    async def find(self, adding: Adding, snapshot: Snapshot, upto: int | None) -> Found:
        """The summary as of a moment; one that is behind, where a chore has to bring it up.

        Raises `Moved` if the user was written meanwhile.
        """
        model, user_id = adding.model, snapshot.user_id
        stands = standing(snapshot, model.spec, upto)
        stored = stands.summary
        if stands.is_exact:
            return Found(stored, stands.unseen, 0, is_exact=True)
        is_young = (
            stored is not None
            and self._refresh_s > 0
            and self._clock() - stored.written_at_s < self._refresh_s
        )
        if not is_young and (stands.unseen > AT_ONCE or (stored is not None and self._refresh_s)):
            self._chores.start(
                ("summary", model.fingerprint, user_id), refresh(self._cache, model, user_id)
            )
        elif not is_young:
            summary, unseen = await _walked(adding, self._cache, snapshot, stored, upto)
            known = snapshot.summary
            if summary and (known is None or summary.covers >= known.covers):
                key = (model.fingerprint, user_id)
                self._chores.start(key, _keep(self._cache, snapshot, summary))
            took_in = (summary.covers if summary else 0) - stands.covered
            return Found(summary, unseen, took_in, is_exact=True)
        return behind(stands)


async def _page(
    adding: Adding, cache: Cache, snapshot: Snapshot, summary: Summary | None
) -> Stretch:
    """Events from a summary's last one on, or from the first: a whole step, or all that there are.

    Raises `Moved` if they are not of the snapshot's version.
    """
    start, limit = summary.last if summary else b"", PAGE
    while True:
        page = await cache.read_on(snapshot.user_id, start=start, limit=limit)
        if page.version != snapshot.version:
            raise Moved
        if page.is_end or len(page.timeline) > adding.step:
            return page
        limit *= 2


async def _walked(
    adding: Adding, cache: Cache, snapshot: Snapshot, summary: Summary | None, upto: int | None
) -> tuple[Summary | None, int]:
    """The summary of all whole steps up to a moment, and how many visible events follow it."""
    while True:
        page = await _page(adding, cache, snapshot, summary)
        timeline = page.timeline if upto is None else page.timeline.upto(upto)
        found = await adding.continued(summary, timeline)
        if summary is not None and found is None:  # its last event is not what it was
            summary = None
            continue
        if page.is_end or len(timeline) < len(page.timeline):
            return found, len(timeline) - ((found.end_in(timeline) if found else 0) or 0)
        summary = found


async def _keep(cache: Cache, snapshot: Snapshot, summary: Summary) -> None:
    """Stores a summary; whoever wrote the user meanwhile has a newer timeline."""
    try:
        await cache.append(snapshot.merge(()).with_summary(summary))
    except (StaleVersion, CacheUnavailable, CacheMismatch):
        return


async def refresh(cache: Cache, model: Model, user_id: str) -> None:
    """Brings a stored summary up to the newest event, page by page; each is kept when it is made.

    So a walk that ends early is gone on with, and whoever writes meanwhile costs it one page.
    """
    adding = Adding(model, Lane.REBUILD)
    failures = 0
    while failures < MOST_FAILURES:
        try:
            if await _turn_page(adding, cache, user_id):
                return
        except (StaleVersion, Moved, Overloaded):
            failures += 1
            await asyncio.sleep(PAUSE_S * random.random())  # noqa: S311
        except (CacheUnavailable, CacheMismatch, EngineFailed):
            return


async def _turn_page(adding: Adding, cache: Cache, user_id: str) -> bool:
    """One page more, stored; whether there is nothing left to do."""
    spec = adding.model.spec
    snapshot = await cache.fetch(user_id, limit=spec.reads, layout=adding.model.layout)
    stands = standing(snapshot, spec, None)
    if stands.is_exact or not snapshot.version:
        return True
    summary = stands.summary
    page = await _page(adding, cache, snapshot, summary)
    found = await adding.continued(summary, page.timeline)
    if summary is not None and found is None:  # its last event is not what it was
        summary = None
        page = await _page(adding, cache, snapshot, summary)
        found = await adding.continued(summary, page.timeline)
    if found is None or found is summary:
        return True
    await cache.append(snapshot.merge(()).with_summary(found))
    return page.is_end
