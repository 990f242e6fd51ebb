"""Events from a file into the store, merged as posted ones are."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cache.base import Cache
from cache.timeline import Event, Mark
from models.events import UNKNOWN, EventTable, read_events
from service.job import Lane
from service.recorder import Recorder
from service.registry import Model
from service.timings import Timings

AT_ONCE = 16
DEADLINE_S = 60.0

#: Called with users done and users in all.
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Backfilled:
    """What a backfill did: counts by status, as `/v1/events` calls them."""

    users: int
    events: int
    statuses: dict[str, int]


async def backfill(model: Model, cache: Cache, events: Path, progress: Progress) -> Backfilled:
    """Records every event of a file; a second run changes nothing."""
    return await fill(model, cache, await asyncio.to_thread(read_events, events), progress)


async def fill(model: Model, cache: Cache, table: EventTable, progress: Progress) -> Backfilled:
    """Records every user's events, several users at a time."""
    recorder = Recorder(cache, deadline_s=DEADLINE_S, lane=Lane.REBUILD)
    users = [int(user) for user in np.flatnonzero(table.counts)]
    waiting = iter(users)
    statuses: Counter[str] = Counter()
    done = 0

    async def work() -> None:
        nonlocal done
        for user in waiting:
            sent = list(_events(table, table.user(user)))
            recorded = await recorder.record(model, table.user_ids[user], sent, Timings())
            statuses.update(recorded.statuses)
            done += 1
            progress(done, len(users))

    async with asyncio.TaskGroup() as group:
        for _ in range(min(AT_ONCE, len(users))):
            group.create_task(work())
    return Backfilled(len(users), len(table), dict(sorted(statuses.items())))


def _events(table: EventTable, span: slice) -> Iterator[Event]:
    items = [table.item_ids[item] for item in table.items[span].tolist()]
    timestamps = table.timestamps[span].tolist()
    said = table.feedback_timestamps[span].tolist()
    labels = table.labels[span].tolist()
    for item_id, timestamp, when, values in zip(items, timestamps, said, labels, strict=True):
        marks = {
            task: Mark(value, at)
            for task, value, at in zip(table.tasks, values, when, strict=True)
            if value != UNKNOWN
        }
        yield Event(item_id, timestamp, marks)
