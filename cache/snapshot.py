"""What a fetch gives, and what an append takes: one user at one version."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from cache.chunk import Chunk
from cache.head import Head
from cache.layout import Layout
from cache.merge import Merged, Status, merge
from cache.timeline import Event, Timeline, frozen

Rows = npt.NDArray[Any]  # (events,) of Layout.row
Mask = npt.NDArray[np.bool_]  # (events,)


@dataclass(frozen=True, slots=True)
class Stored:
    """What was read of a user, in whole chunks; a snapshot shows a part of it."""

    head: Head | None
    elsewhere: tuple[Chunk, ...]  # older than the tail: only what a merge will touch
    tail: tuple[Chunk, ...]  # consecutive, oldest first
    timeline: Timeline  # the tail as one
    rows: Rows
    valid: Mask
    useless: tuple[bytes, ...] = ()  # bounds of row chunks that expired
    is_end: bool = True  # the tail runs to the end of the timeline


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A user's newest events and their rows, and all that a merge needs."""

    user_id: str
    version: int
    """0 = no timeline."""
    timeline: Timeline
    rows: Rows
    """One per event of `timeline`; undefined where not `valid`. Read-only."""
    valid: Mask
    written_at_s: float | None
    """Unix time of the newest write among the rows that were read."""
    trimmed: bool
    """Events older than all that are stored were trimmed."""
    complete: bool
    """`timeline` starts with the first event that is stored."""
    quarantined: bool
    """A damaged timeline of this user was put aside; this one is what came after."""
    keep: int
    layout: Layout | None = field(repr=False)
    stored: Stored = field(repr=False)
    skipped: int = field(default=0, repr=False)
    """Events of the stored tail before `timeline`."""

    def merge(self, events: Sequence[Event]) -> Change:
        """Merges events (none: rows only) into the timeline; stores nothing."""
        stored = self.stored
        if not events:
            return Change(self, (), self.timeline, self.rows, self.valid, len(self.timeline))
        if not stored.is_end:
            raise RuntimeError("This is a bug: events are merged into the end of a timeline.")
        if stored.head and len(stored.timeline) < stored.head.count:
            self._check_reach(events)
        merged = merge(
            stored.elsewhere,
            stored.tail,
            events,
            count=stored.head.count if stored.head else 0,
            keep=self.keep,
        )
        whole = Timeline.concat([chunk.timeline for chunk in merged.tail])
        true = _still_true(merged, whole, len(stored.timeline))
        skipped = self._skipped_after(merged, whole)
        return Change(
            self,
            merged.statuses,
            whole[skipped : len(whole)],
            *self._moved(merged.cut, skipped, true, len(whole)),
            max(true - skipped, 0),
            merged,
            whole,
        )

    def _check_reach(self, events: Sequence[Event]) -> None:
        read = [*self.stored.elsewhere, *self.stored.tail]
        if min(event.key for event in events) < read[0].bound and self._is_partial:
            raise RuntimeError("This is a bug: fetch with around=events before merging them.")

    @property
    def _is_partial(self) -> bool:
        return not self.complete and not self.stored.elsewhere

    def _skipped_after(self, merged: Merged, whole: Timeline) -> int:
        """The tail after merging starts where `timeline` started, or at the first event of all."""
        if self.complete:
            return 0
        if not len(self.timeline):
            return len(self.stored.timeline)
        return whole.before(self.timeline.key(0))

    def _moved(self, cut: int, skipped: int, true: int, count: int) -> tuple[Rows, Mask]:
        """The rows that stay true, at their new places."""
        stored = self.stored
        rows = np.zeros(count - skipped, stored.rows.dtype)
        valid = np.zeros(count - skipped, np.bool_)
        if true > skipped:
            rows[: true - skipped] = stored.rows[cut + skipped : cut + true]
            valid[: true - skipped] = stored.valid[cut + skipped : cut + true]
        if not stored.rows.dtype.itemsize:
            valid[:] = True
        return frozen(rows), frozen(valid)


@dataclass(frozen=True, slots=True)
class Change:
    """A merged snapshot, not stored yet."""

    snapshot: Snapshot = field(repr=False)
    statuses: tuple[Status, ...]
    """One per event given to `merge`, in that order."""
    timeline: Timeline
    """The newest events after merging, from where the snapshot's timeline started."""
    rows: Rows
    valid: Mask
    changed: int
    """The first row of `timeline` that the merge made untrue or that is new."""
    merged: Merged | None = field(default=None, repr=False)
    whole: Timeline = field(default_factory=Timeline.empty, repr=False)
    """All events of the merged tail's chunks; `timeline` is the end of it."""
    has_rows: bool = False

    @property
    def user_id(self) -> str:
        return self.snapshot.user_id

    @property
    def base(self) -> int:
        """The version that was read."""
        return self.snapshot.version

    @property
    def is_empty(self) -> bool:
        """Nothing to store."""
        return not self.has_rows and (self.merged is None or self.merged.spoiled is None)

    def with_rows(self, rows: Rows, valid: Mask) -> Change:
        """The same change with rows for the whole `timeline`."""
        expected = (self.rows.dtype, len(self.timeline), len(self.timeline))
        if (rows.dtype, len(rows), len(valid)) != expected:
            raise ValueError(
                f"This is a bug: {len(rows)} rows of {rows.dtype} and {len(valid)} marks "
                f"for {len(self.timeline)} events of {self.rows.dtype}."
            )
        return replace(self, rows=rows, valid=valid, has_rows=bool(rows.dtype.itemsize))


def _still_true(merged: Merged, whole: Timeline, before: int) -> int:
    """How many rows at the front of the tail the merge left true."""
    if merged.spoiled is None:
        return before - merged.cut
    key, is_own_row_true = merged.spoiled
    at = whole.before(key)
    return at + 1 if is_own_row_true and at < len(whole) and whole.key(at) == key else at
