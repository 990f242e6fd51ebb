"""What a user takes in Redis, in bytes: one formula, which a test holds against a real server.

    a record of an event, all depths     depths x (width x bytes of the dtype + scale) + 4 (hash)
    each chunk of 32 records             130 + what names the row's type
    a summary                            tokens and sums + 130 + what names their type
    an event of a timeline               13 + 9 per task + its item's id
    each chunk of 32 events              120
    a user's two hashes and their index  450

The store packs 32 events into one value (`cache/chunk.py`); what surrounds a value (its field, its
checksum, the fingerprint, the owner) is shared by those 32. All of it is without the allocator's
rounding: jemalloc, which Redis is built with, adds that.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cache.chunk import CHUNK_EVENTS
from models.spec import Spec

HASH_BYTES = 4
VALUE_BYTES = 130
EVENT_BYTES = 13
MARK_BYTES = 9
EVENT_CHUNK_BYTES = 120
USER_BYTES = 450


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes of one user's parts, for one shape of model and of ids."""

    spec: Spec
    id_bytes: int = 8

    @property
    def cell_bytes(self) -> float:
        """Of one (event, cached depth), with its share of all that surrounds it."""
        spec = self.spec
        return self.chunk_bytes(CHUNK_EVENTS) / (CHUNK_EVENTS * max(spec.cached_depths, 1))

    @property
    def event_bytes(self) -> float:
        """Of one event's id, time and feedback, with its share of all that surrounds it."""
        return self.page_bytes / CHUNK_EVENTS

    @property
    def page_bytes(self) -> int:
        """Of a full chunk of events."""
        return self._events_bytes(CHUNK_EVENTS)

    @property
    def summary_bytes(self) -> int:
        """Of a summary, as one value."""
        row = self.spec.summary_row
        return row.itemsize + len(repr(row.descr)) + VALUE_BYTES if self.spec.summary else 0

    def chunk_bytes(self, records: int) -> int:
        """Of so many records as one value: its row type is written out beside them."""
        row = self.spec.row
        if not self.spec.cached_depths:
            return 0
        return records * (row.itemsize + HASH_BYTES) + len(repr(row.descr)) + VALUE_BYTES

    def user_bytes(self, records: int, events: int) -> int:
        """Of a user with so many records and events; the last chunks may not be full."""
        return USER_BYTES + sum(many * each for many, each in self._values(records, events))

    def allocated_bytes(self, records: int, events: int) -> int:
        """The same, as jemalloc sets it aside."""
        values = self._values(records, events)
        return size_class(USER_BYTES) + sum(many * size_class(each) for many, each in values)

    def _values(self, records: int, events: int) -> Iterator[tuple[int, int]]:
        """How many values there are of how many bytes."""
        for count, bytes_of in ((records, self.chunk_bytes), (events, self._events_bytes)):
            full, rest = divmod(count, CHUNK_EVENTS)
            yield full, bytes_of(CHUNK_EVENTS)
            yield (1 if rest else 0), bytes_of(rest)
        if self.spec.summary and events >= self.spec.refresh_events:
            yield 1, self.summary_bytes

    def _events_bytes(self, events: int) -> int:
        """Of so many events as one value."""
        each = EVENT_BYTES + MARK_BYTES * len(self.spec.tasks) + self.id_bytes
        return events * each + EVENT_CHUNK_BYTES


def size_class(size_bytes: int) -> int:
    """What jemalloc sets aside for so many bytes: four sizes to every power of two."""
    if size_bytes <= 128:
        return -(-size_bytes // 16) * 16
    step = 1 << ((size_bytes - 1).bit_length() - 3)
    return -(-size_bytes // step) * step
