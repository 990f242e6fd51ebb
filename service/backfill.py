"""Events from a file into the store, merged as posted ones are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cache.base import Cache
from cache.timeline import Event, Mark
from models.event_file import UNKNOWN, EventColumns, read_columns
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
    """Records every user's events, several users at a time; a second run changes nothing."""
    columns = await asyncio.to_thread(read_columns, events)
    recorder = Recorder(cache, deadline_s=DEADLINE_S, lane=Lane.REBUILD)
    users = _users(columns)
    total = len(columns.users.distinct)
    statuses: dict[str, int] = {}
    done = 0

    async def work() -> None:
        nonlocal done
        for user_id, places in users:
            recorded = await recorder.record(
                model, user_id, list(_events(columns, places)), Timings()
            )
            for status in recorded.statuses:
                statuses[status] = statuses.get(status, 0) + 1
            done += 1
            progress(done, total)

    async with asyncio.TaskGroup() as group:
        for _ in range(min(AT_ONCE, total)):
            group.create_task(work())
    return Backfilled(total, len(columns.timestamps), dict(sorted(statuses.items())))


def _users(
    columns: EventColumns,
) -> Iterator[tuple[str, np.ndarray[tuple[int], np.dtype[np.int64]]]]:
    """Each user and the places of their events, in time order."""
    order = np.lexsort((columns.items.rows, columns.timestamps, columns.users.rows))
    starts = np.searchsorted(
        columns.users.rows[order], np.arange(len(columns.users.distinct) + 1)
    ).tolist()
    for user, user_id in enumerate(columns.users.distinct):
        yield user_id, order[starts[user] : starts[user + 1]]


def _events(
    columns: EventColumns, places: np.ndarray[tuple[int], np.dtype[np.int64]]
) -> Iterator[Event]:
    items = [columns.items.distinct[row] for row in columns.items.rows[places].tolist()]
    timestamps = columns.timestamps[places].tolist()
    said = columns.feedback_timestamps[places].tolist()
    labels = columns.labels[places].tolist()
    for item_id, timestamp, when, values in zip(items, timestamps, said, labels, strict=True):
        marks = {
            task: Mark(value, when)
            for task, value in zip(columns.tasks, values, strict=True)
            if value != UNKNOWN
        }
        yield Event(item_id, timestamp, marks)
