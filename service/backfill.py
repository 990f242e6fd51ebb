"""Events from a file into the store, merged as posted ones are."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from cache.base import Cache
from cache.timeline import FeedbackColumn, Timeline
from models.event_parts import split_events
from models.events import UNKNOWN, EventTable
from service.job import Lane
from service.recorder import Recorder
from service.registry import Model
from service.summaries import refresh
from service.timings import Timings

AT_ONCE = 16
DEADLINE_S = 60.0
MOST_EVENTS = 4_096  # of a user that are merged at once
STEPS = 1_000  # that progress shows of each part

#: Called with how much is done, and of how much.
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Backfilled:
    """What a backfill did: counts by status, as `/v1/events` calls them."""

    users: int
    events: int
    statuses: dict[str, int]


async def backfill(model: Model, cache: Cache, events: Path, progress: Progress) -> Backfilled:
    """Records every event of a file of any size; a second run changes nothing.

    Nothing is recorded before the whole file has been checked.
    """
    users = recorded = done = 0
    statuses: Counter[str] = Counter()
    with TemporaryDirectory(prefix="marmot-") as folder:
        parts = await asyncio.to_thread(split_events, events, Path(folder))
        waiting = iter(parts)
        while (table := await asyncio.to_thread(next, waiting, None)) is not None:
            shown = partial(_show, progress, done, len(parts.files))
            found = await fill(model, cache, table, shown)
            users, recorded = users + found.users, recorded + found.events
            statuses.update(found.statuses)
            done += 1
    return Backfilled(users, recorded, dict(sorted(statuses.items())))


def _show(progress: Progress, part: int, parts: int, users: int, most: int) -> None:
    """How many users there are is known of one part at a time."""
    progress(part * STEPS + users * STEPS // most, parts * STEPS)


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
            user_id, span = table.user_ids[user], table.user(user)
            for start in range(span.start, span.stop, MOST_EVENTS):
                sent = _timeline(table, slice(start, min(start + MOST_EVENTS, span.stop)))
                recorded = await recorder.record(model, user_id, sent, Timings())
                statuses.update(recorded.statuses)
            if model.spec.summary:  # one that was made by nobody yet, or is behind
                await refresh(cache, model, user_id)
            done += 1
            progress(done, len(users))

    async with asyncio.TaskGroup() as group:
        for _ in range(min(AT_ONCE, len(users))):
            group.create_task(work())
    return Backfilled(len(users), len(table), dict(sorted(statuses.items())))


def _timeline(table: EventTable, span: slice) -> Timeline:
    """A user's events, or some that follow one another, as they are stored."""
    feedback = {
        task: FeedbackColumn(labels.copy(), said.copy())
        for task, labels, said in zip(
            table.tasks, table.labels[span].T, table.feedback_timestamps[span].T, strict=True
        )
        if (labels != UNKNOWN).any()
    }
    item_ids = [table.item_ids[item] for item in table.items[span].tolist()]
    return Timeline.of_columns(item_ids, table.timestamps[span].copy(), feedback)
