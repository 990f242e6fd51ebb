"""A chunk while events are merged into it: columns as stored, then events from the first change,
and behind those, in the last chunk of all, columns that were sent."""

from __future__ import annotations

from bisect import bisect_left

from cache.chunk import Chunk, pieces
from cache.timeline import Event, Timeline, merge_feedback


class Page:
    """Opened only from the first change on: an append opens nothing."""

    def __init__(self, stored: Chunk | None) -> None:
        self._stored = stored
        self._kept = stored.timeline if stored else Timeline.empty()
        self._start = 0  # events before this were trimmed
        self._stop = len(self._kept)  # events from this on are in _events
        self._keys: list[bytes] = []
        self._events: list[Event] = []
        self._run = Timeline.empty()
        self.timeline = self._kept
        """All of it, once it is closed."""
        self.trimmed = 0
        self.is_touched = False

    def __repr__(self) -> str:
        return f"<Page of {len(self)}, {'touched' if self.is_touched else 'as stored'}>"

    def __len__(self) -> int:
        return self._stop - self._start + len(self._keys) + len(self._run)

    @property
    def bound(self) -> bytes:
        """Where the stored chunk begins; a page that is new begins before everything."""
        return self._stored.bound if self._stored else b""

    @property
    def first_key(self) -> bytes:
        if self._start < self._stop:
            return self._kept.key(self._start)
        return self._keys[0] if self._keys else self._run.key(0)

    @property
    def last_key(self) -> bytes:
        """The greatest key here, or b"" (before everything) of an empty page."""
        if self._keys:
            return self._keys[-1]
        return self._kept.key(self._stop - 1) if self._start < self._stop else b""

    def find(self, key: bytes) -> Event | None:
        """The event with this key, opened for change; a page without it stays as it is."""
        if not self._keys or key < self._keys[0]:
            at = self._kept.before(key)
            if not (self._start <= at < self._stop and self._kept.key(at) == key):
                return None
            self._open(at)
        at = bisect_left(self._keys, key)
        return self._events[at] if at < len(self._keys) and self._keys[at] == key else None

    def insert(self, key: bytes, event: Event) -> None:
        """Adds an event that is not here yet."""
        if key < self.last_key and (not self._keys or key < self._keys[0]):
            self._open(max(self._kept.before(key), self._start))
        at = bisect_left(self._keys, key)
        self._keys.insert(at, key)
        self._events.insert(at, event)
        self.is_touched = True

    def update(self, known: Event, event: Event) -> bool:
        """Merges feedback into an event that `find` gave; says whether anything changed."""
        feedback = merge_feedback(known.feedback, event.feedback)
        if feedback is known.feedback:
            return False
        at = bisect_left(self._keys, event.key)
        self._events[at] = Event(event.item_id, event.timestamp, feedback)
        self.is_touched = True
        return True

    def extend(self, run: Timeline) -> None:
        """Adds events behind all that are here; nothing is found or inserted after that."""
        self._run = run
        self.is_touched = True

    def trim(self, count: int) -> None:
        """Drops the oldest events."""
        kept = min(count, self._stop - self._start)
        opened = min(count - kept, len(self._keys))
        self._start += kept
        del self._keys[:opened], self._events[:opened]
        self._run = self._run[count - kept - opened :]
        self.trimmed += count
        self.is_touched = True

    def close(self, *, is_last: bool) -> list[Chunk]:
        """The page as chunks."""
        if not self.is_touched:
            return [self._stored] if self._stored else []
        kept = self._kept[self._start : self._stop]
        self.timeline = Timeline.concat([kept, Timeline.of_sorted(self._events), self._run])
        chunks = pieces(self.timeline, is_last=is_last)
        stored = self._stored
        if stored and chunks and self._start == 0 and len(chunks[0]) == len(stored) <= self._stop:
            chunks[0] = stored  # an append behind a full chunk leaves it as it is
        return chunks

    def _open(self, at: int) -> None:
        opened = list(self._kept[at : self._stop].events())
        self._events[:0] = opened
        self._keys[:0] = [event.key for event in opened]
        self._stop = at
