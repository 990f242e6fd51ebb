"""What a user has seen, in order: ids, times and feedback as frozen columns. Knows no model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import xxhash

T = TypeVar("T", bound=np.generic)

UNKNOWN = -1
"""A label nobody has sent: a third state, never 0."""


class Mark(NamedTuple):
    """What one task says about an event, and when it was said."""

    value: int
    timestamp: int


class FeedbackColumn(NamedTuple):
    """One task's marks along a timeline."""

    values: npt.NDArray[np.int8]  # (events,), -1 = unknown
    timestamps: npt.NDArray[np.int64]  # (events,), 0 where unknown


@dataclass(frozen=True, slots=True)
class Event:
    """An item a user was shown, and what came of it."""

    item_id: str
    timestamp: int
    feedback: Mapping[str, Mark] = field(default_factory=dict)

    @property
    def key(self) -> bytes:
        """Sorts like the timeline: by time, then by the item id's UTF-8 bytes."""
        return order_key(self.timestamp, self.item_id)


def order_key(timestamp: int, item_id: str) -> bytes:
    """Bytes whose lexicographic order is the order of a timeline."""
    return timestamp.to_bytes(8, "big") + item_id.encode()


def short_hash(key: bytes) -> int:
    """The paper's user-item hash: ties a row to its event. Never 0, which means "no row"."""
    return xxhash.xxh32_intdigest(key) or 1


def merge_feedback(old: Mapping[str, Mark], new: Mapping[str, Mark]) -> Mapping[str, Mark]:
    """Per task the newest mark wins, at a tie 1; answers `old` itself if nothing changes."""
    changed = {
        task: mark
        for task, mark in new.items()
        if task not in old or (mark.timestamp, mark.value) > (old[task].timestamp, old[task].value)
    }
    return {**old, **changed} if changed else old


@dataclass(frozen=True, slots=True, eq=False)
class Timeline:
    """Events in (timestamp, UTF-8 bytes of the item id) order; all arrays are read-only."""

    item_ids: tuple[str, ...]
    timestamps: npt.NDArray[np.int64]  # (events,)
    hashes: npt.NDArray[np.uint32]  # (events,)
    feedback: Mapping[str, FeedbackColumn]

    @classmethod
    def empty(cls) -> Timeline:
        return _EMPTY

    @classmethod
    def of(cls, events: Iterable[Event]) -> Timeline:
        """Sorts the events and merges those that are one."""
        merged: dict[bytes, Event] = {}
        for event in events:
            key = event.key
            known = merged.get(key)
            if known is not None:
                feedback = merge_feedback(known.feedback, event.feedback)
                event = Event(event.item_id, event.timestamp, feedback)  # noqa: PLW2901
            merged[key] = event
        return cls.of_sorted([merged[key] for key in sorted(merged)])

    @classmethod
    def of_sorted(cls, events: Sequence[Event]) -> Timeline:
        """Takes events that are in order and distinct."""
        if not events:
            return _EMPTY
        names = dict.fromkeys(name for event in events for name in event.feedback)
        return cls.of_columns(
            [event.item_id for event in events],
            np.array([event.timestamp for event in events], np.int64),
            {name: _column(name, events) for name in names},
        )

    @classmethod
    def of_columns(
        cls,
        item_ids: Sequence[str],
        timestamps: npt.NDArray[np.int64],
        feedback: Mapping[str, FeedbackColumn],
    ) -> Timeline:
        """Takes columns of events that are in order and distinct, and freezes them."""
        keys = _order_keys(timestamps, item_ids)
        hashes = np.fromiter(map(xxhash.xxh32_intdigest, keys), np.uint32, len(keys))
        hashes[hashes == 0] = 1  # as in `short_hash`
        for column in feedback.values():
            frozen(column.values)
            frozen(column.timestamps)
        named = dict(sorted(feedback.items()))
        return cls(tuple(item_ids), frozen(timestamps), frozen(hashes), named)

    @classmethod
    def concat(cls, parts: Sequence[Timeline]) -> Timeline:
        """Joins timelines that follow one another."""
        parts = [part for part in parts if len(part)]
        if len(parts) < 2:
            return parts[0] if parts else _EMPTY
        names = dict.fromkeys(name for part in parts for name in part.feedback)
        item_ids: list[str] = []
        for part in parts:
            item_ids += part.item_ids
        return cls(
            tuple(item_ids),
            frozen(np.concatenate([part.timestamps for part in parts])),
            frozen(np.concatenate([part.hashes for part in parts])),
            {name: _joined(name, parts) for name in names},
        )

    def __len__(self) -> int:
        return len(self.item_ids)

    def __repr__(self) -> str:
        return f"<Timeline {len(self)} events>"

    def __getitem__(self, span: slice) -> Timeline:
        """A contiguous part, as views."""
        if span == slice(0, len(self), None):
            return self
        return Timeline(
            self.item_ids[span],
            self.timestamps[span],
            self.hashes[span],
            {
                name: FeedbackColumn(column.values[span], column.timestamps[span])
                for name, column in self.feedback.items()
            },
        )

    def events(self) -> Iterator[Event]:
        """The events one by one, oldest first."""
        columns = [
            (name, column.values.tolist(), column.timestamps.tolist())
            for name, column in self.feedback.items()
        ]
        for i, (item_id, timestamp) in enumerate(
            zip(self.item_ids, self.timestamps.tolist(), strict=True)
        ):
            marks = {
                name: Mark(values[i], said[i])
                for name, values, said in columns
                if values[i] != UNKNOWN
            }
            yield Event(item_id, timestamp, marks)

    def keys(self) -> list[bytes]:
        """The order keys of all events."""
        return _order_keys(self.timestamps, self.item_ids)

    def key(self, index: int) -> bytes:
        """The order key of one event."""
        return order_key(int(self.timestamps[index]), self.item_ids[index])

    def last(self, count: int) -> Timeline:
        """The newest `count` events."""
        return self[max(len(self) - count, 0) : len(self)]

    def upto(self, timestamp: int) -> Timeline:
        """The events at or before `timestamp`."""
        return self[0 : int(np.searchsorted(self.timestamps, timestamp, side="right"))]

    def before(self, key: bytes) -> int:
        """How many events sort before an order key."""
        timestamp = int.from_bytes(key[:8], "big")
        low = int(np.searchsorted(self.timestamps, timestamp, side="left"))
        high = int(np.searchsorted(self.timestamps, timestamp, side="right"))
        while low < high and self.item_ids[low].encode() < key[8:]:
            low += 1
        return low

    def labels(self, tasks: Sequence[str]) -> npt.NDArray[np.int8]:
        """(events, tasks): 0, 1, or -1 = unknown."""
        labels = np.full((len(self), len(tasks)), UNKNOWN, np.int8)
        for index, task in enumerate(tasks):
            if task in self.feedback:
                labels[:, index] = self.feedback[task].values
        return frozen(labels)


def frozen(array: npt.NDArray[T]) -> npt.NDArray[T]:
    """The same array, read-only: what the cache hands out cannot be changed under it."""
    array.setflags(write=False)
    return array


def _order_keys(timestamps: npt.NDArray[np.int64], item_ids: Sequence[str]) -> list[bytes]:
    """`order_key` of each."""
    times = timestamps.astype(">i8").tobytes()
    return [
        times[at : at + 8] + item_id.encode()
        for at, item_id in zip(range(0, len(times), 8), item_ids, strict=True)
    ]


def _column(name: str, events: Sequence[Event]) -> FeedbackColumn:
    unknown = Mark(UNKNOWN, 0)
    marks = [event.feedback.get(name, unknown) for event in events]
    return FeedbackColumn(
        np.array([mark.value for mark in marks], np.int8),
        np.array([mark.timestamp for mark in marks], np.int64),
    )


def _joined(name: str, parts: Sequence[Timeline]) -> FeedbackColumn:
    columns = [
        part.feedback[name] if name in part.feedback else _unknown(len(part)) for part in parts
    ]
    return FeedbackColumn(
        frozen(np.concatenate([column.values for column in columns])),
        frozen(np.concatenate([column.timestamps for column in columns])),
    )


def _unknown(count: int) -> FeedbackColumn:
    return FeedbackColumn(np.full(count, UNKNOWN, np.int8), np.zeros(count, np.int64))


_EMPTY = Timeline((), frozen(np.zeros(0, np.int64)), frozen(np.zeros(0, np.uint32)), {})
