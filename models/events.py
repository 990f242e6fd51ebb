"""The events of every user as sorted, merged columns: a function of what was sent, in any order."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from models.event_file import UNKNOWN, EventColumns, read_columns
from models.event_source import EventsError

__all__ = ["UNKNOWN", "EventTable", "EventsError", "merge", "read_events", "validation_users"]

#: Users with fewer events keep all of them for training.
LEAST_EVENTS_TO_HOLD_OUT = 5


@dataclass(frozen=True, slots=True, eq=False)
class EventTable:
    """Users one after the other, each one's events by (timestamp, UTF-8 bytes of the item id).

    The events of user `u` are rows `offsets[u]` to `offsets[u + 1]`. Ids are sorted by their
    UTF-8 bytes, so an item's index also orders it.
    """

    user_ids: list[str]
    offsets: np.ndarray[Any, Any]  # (users + 1,) int64
    item_ids: list[str]
    items: np.ndarray[Any, Any]  # (events,) int64, index into item_ids
    timestamps: np.ndarray[Any, Any]  # (events,) int64 seconds
    tasks: tuple[str, ...]
    labels: np.ndarray[Any, Any]  # (events, tasks) int8: 0, 1 or UNKNOWN
    feedback_timestamps: np.ndarray[Any, Any]  # (events, tasks) int64: of each label, 0 if UNKNOWN

    def __repr__(self) -> str:
        tasks = ", ".join(self.tasks)
        sizes = f"{len(self.user_ids)} users, {len(self.item_ids)} items, {len(self)} events"
        return f"<EventTable {sizes}; {tasks}>"

    def __len__(self) -> int:
        return len(self.items)

    @property
    def counts(self) -> np.ndarray[Any, Any]:  # (users,) int64
        return np.diff(self.offsets)

    @property
    def users(self) -> np.ndarray[Any, Any]:
        """(events,) int64: the index of each event's user."""
        return np.repeat(np.arange(len(self.user_ids)), self.counts)

    def user(self, index: int) -> slice:
        return slice(int(self.offsets[index]), int(self.offsets[index + 1]))

    def holdout_start(self, fraction: float) -> np.ndarray[Any, Any]:
        """(users,) int64: how many of each user's events come before the holdout.

        The holdout is the last `fraction` of a user's events, rounded down, but at least one.
        It is nothing for users with few events, and for everybody when `fraction` is 0.
        """
        if not 0 <= fraction < 1:
            raise ValueError(f"the holdout must be at least 0 and below 1, not {fraction}")
        counts = self.counts
        if fraction == 0:
            return counts
        # 0.29 * 100 is a hair below 29 in floating point, and rounding down would lose one.
        held = np.floor(counts * fraction + 1e-9).astype(np.int64)
        return np.where(counts < LEAST_EVENTS_TO_HOLD_OUT, counts, counts - np.maximum(held, 1))

    def is_held_out(self, fraction: float) -> np.ndarray[Any, Any]:
        """(events,) bool: the events that training never sees."""
        position = np.arange(len(self)) - np.repeat(self.offsets[:-1], self.counts)
        held: np.ndarray[Any, Any] = position >= np.repeat(
            self.holdout_start(fraction), self.counts
        )
        return held

    def take(self, keep: np.ndarray[Any, Any]) -> EventTable:
        """Only the events in the mask; users and items keep their indices, some now without any."""
        kept = np.concatenate(([0], np.cumsum(keep, dtype=np.int64)))
        return dataclasses.replace(
            self,
            offsets=kept[self.offsets],
            items=self.items[keep],
            timestamps=self.timestamps[keep],
            labels=self.labels[keep],
            feedback_timestamps=self.feedback_timestamps[keep],
        )

    def of_seen_items(self) -> EventTable:
        """The same events over only those items that occur in them, re-indexed."""
        seen, items = np.unique(self.items, return_inverse=True)
        item_ids = [self.item_ids[item] for item in seen]
        return dataclasses.replace(self, item_ids=item_ids, items=items.astype(np.int64))


def read_events(path: Path | str, tasks: Sequence[str] | None = None) -> EventTable:
    """The events of a CSV or Parquet file; `tasks` defaults to every 0/1 column."""
    return merge(read_columns(path, tasks))


def merge(columns: EventColumns) -> EventTable:
    """Sort the rows and make one event of those with the same user, item and timestamp.

    Per task the newest known feedback wins, and at a tie 1 beats 0.
    """
    users, items, timestamps = columns.users.rows, columns.items.rows, columns.timestamps
    order = np.lexsort((items, timestamps, users))
    users, items, timestamps = users[order], items[order], timestamps[order]
    is_first = np.ones(len(order), bool)
    is_first[1:] = (np.diff(users) != 0) | (np.diff(timestamps) != 0) | (np.diff(items) != 0)
    starts = np.flatnonzero(is_first)
    labels = np.empty((len(starts), len(columns.tasks)), np.int8)
    said_at = np.empty(labels.shape, np.int64)
    for task in range(len(columns.tasks)):
        sent = columns.labels[:, task]
        # One number that grows with (feedback time, label), and lies below all where unknown.
        strength = np.where(sent == UNKNOWN, -1, columns.feedback_timestamps * 2 + sent)[order]
        strongest = np.maximum.reduceat(strength, starts)
        labels[:, task] = np.where(strongest < 0, UNKNOWN, strongest & 1)
        said_at[:, task] = np.where(strongest < 0, 0, strongest >> 1)
    counts = np.bincount(users[starts], minlength=len(columns.users.distinct))
    return EventTable(
        user_ids=columns.users.distinct,
        offsets=np.concatenate(([0], np.cumsum(counts, dtype=np.int64))),
        item_ids=columns.items.distinct,
        items=items[starts],
        timestamps=timestamps[starts],
        tasks=columns.tasks,
        labels=labels,
        feedback_timestamps=said_at,
    )


def validation_users(user_ids: Sequence[str], share: float = 0.05) -> np.ndarray[Any, Any]:
    """(users,) bool: those to validate on, by a hash of the id alone.

    At least one user is picked and one is left, wherever there are two.
    """
    hashes = np.array([xxhash.xxh64_intdigest(user_id.encode()) for user_id in user_ids], np.uint64)
    picked: np.ndarray[Any, Any] = hashes < np.uint64(min(int(share * 2**64), 2**64 - 1))
    if share > 0 and len(hashes) > 1:
        picked[np.argmin(hashes)] = True
        picked[np.argmax(hashes)] = False
    return picked
