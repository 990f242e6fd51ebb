"""What a fetch gives, and what an append takes: one user at one version."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from cache.chunk import Chunk, chunks_of
from cache.head import Head
from cache.layout import Layout
from cache.merge import Merged, Status, merge
from cache.raw import Seal
from cache.sent import Sent
from cache.summary import Summary
from cache.timeline import Timeline, frozen

Rows = npt.NDArray[Any]  # (events,) of Layout.row
Mask = npt.NDArray[np.bool_]  # (events,)


@dataclass(frozen=True, slots=True)
class Stored:
    """What was read of a user, in whole chunks; a snapshot shows a part of it."""

    head: Head | None
    elsewhere: tuple[Chunk, ...]  # older than the tail: only what a merge will touch
    bounds: Sequence[bytes]  # of the tail: consecutive chunks, oldest first
    counts: Sequence[int]  # events of each
    timeline: Timeline  # the tail as one
    rows: Rows
    valid: Mask
    useless: tuple[bytes, ...] = ()  # bounds of row chunks that expired
    newer: int = 0  # events behind the tail, as far as they matter
    around: int = 0  # how many events this was read for

    @property
    def tail(self) -> list[Chunk]:
        """Cut only when somebody writes."""
        return chunks_of(self.bounds, self.counts, self.timeline)


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
    limit: int
    """How many events were asked for."""
    good_from: int
    """The newest timestamp: a fetch up to any later one gives the same."""
    good_until_s: float
    """Unix time until which it can be fetched again: when the first of what was read expires; 0 if
    there are newer events, or rows that somebody may yet write."""
    summary: Summary | None = field(repr=False)
    """Of the first events, if there is one and nothing that it covers is known to have changed."""
    layout: Layout | None = field(repr=False)
    seal: Seal = field(repr=False)
    stored: Stored = field(repr=False)
    skipped: int = field(default=0, repr=False)
    """Events of the stored tail before `timeline`."""

    def would_answer(
        self, user_id: str, limit: int, upto: int | None, layout: Layout | None, now_s: float
    ) -> bool:
        """Whether such a fetch gives this very snapshot, unless the store has changed since."""
        return (
            now_s < self.good_until_s
            and (upto is None or upto >= self.good_from)
            and self.user_id == user_id
            and self.limit == limit
            and (self.layout is layout or self.layout == layout)
        )

    def merge(self, events: Sent, *, after_trimming: bool = False) -> Change:
        """Merges events (none: rows only) into the timeline; stores nothing.

        `after_trimming` says that there were older events where these come from.
        """
        stored = self.stored
        if not events:
            whole = Whole(stored.rows, stored.valid, self.skipped)
            return Change(
                self, (), self.timeline, self.rows, self.valid, len(self.timeline), None, whole,
                self.summary,
            )  # fmt: skip
        has_all = not stored.head or len(stored.timeline) == stored.head.count
        if stored.newer or not (has_all or len(events) <= stored.around):
            raise RuntimeError("This is a bug: fetch with around=events before merging them.")
        merged = merge(
            stored.elsewhere,
            stored.tail,
            events,
            count=stored.head.count if stored.head else 0,
            keep=self.keep,
        )
        if after_trimming:
            merged = replace(merged, has_trimmed=True)
        tail = merged.timeline
        true = _still_true(merged, tail, len(stored.timeline))
        skipped = self._skipped_after(tail)
        whole = _moved(stored, merged.cut, true, len(tail), skipped)
        return Change(
            self,
            merged.statuses,
            tail[skipped : len(tail)],
            whole.rows[skipped:],
            whole.valid[skipped:],
            max(true - skipped, 0),
            merged,
            whole,
            self._summary_after(merged),
        )

    def _summary_after(self, merged: Merged) -> Summary | None:
        """The summary, unless an event that it covers is new or not what it was."""
        summary, spoiled = self.summary, merged.spoiled
        if summary is None or spoiled is None or summary.last < spoiled[0]:
            return summary
        return None

    def _skipped_after(self, tail: Timeline) -> int:
        """The tail after merging starts where `timeline` started, or at the first event of all."""
        if self.complete:
            return 0
        if not len(self.timeline):
            return len(self.stored.timeline)
        return tail.before(self.timeline.key(0))


@dataclass(frozen=True, slots=True)
class Whole:
    """The rows that stay true along all events of the merged tail, `timeline` being a part."""

    rows: Rows
    valid: Mask
    skipped: int  # events before `timeline`


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
    merged: Merged | None = field(repr=False)
    whole: Whole = field(repr=False)
    summary: Summary | None = field(default=None, repr=False)
    """The one that stays true, or the new one."""
    has_rows: bool = False
    has_summary: bool = False

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
        return not self.has_rows and not self.has_summary and not self.has_news

    @property
    def has_news(self) -> bool:
        """The timeline changes, if only by knowing that it is not whole any more."""
        if self.merged is None:
            return False
        is_first_trim = self.merged.has_trimmed and not self.snapshot.trimmed
        return self.merged.spoiled is not None or is_first_trim

    def with_rows(self, rows: Rows, valid: Mask) -> Change:
        """The same change with rows for the whole `timeline`."""
        expected = (self.rows.dtype, len(self.timeline), len(self.timeline))
        if (rows.dtype, len(rows), len(valid)) != expected:
            raise ValueError(
                f"This is a bug: {len(rows)} rows of {rows.dtype} and {len(valid)} marks "
                f"for {len(self.timeline)} events of {self.rows.dtype}."
            )
        return replace(self, rows=rows, valid=valid, has_rows=bool(rows.dtype.itemsize))

    def with_summary(self, summary: Summary) -> Change:
        """The same change with a new summary of the first events after merging."""
        if self.snapshot.layout is None or summary.row.dtype != self.snapshot.layout.summary:
            raise ValueError(f"This is a bug: a summary of {summary.row.dtype} has no place here.")
        return replace(self, summary=summary, has_summary=True)

    def whole_rows(self) -> tuple[Rows, Mask, Mask]:
        """Rows and marks along the whole tail, and which of them are not stored yet."""
        whole = self.whole
        start, stop = whole.skipped, whole.skipped + len(self.timeline)
        if not self.has_rows:
            return whole.rows, whole.valid, np.zeros(len(whole.valid), np.bool_)
        if stop - start == len(whole.valid):
            return self.rows, self.valid, self.valid & ~whole.valid
        rows, valid = whole.rows.copy(), whole.valid.copy()
        rows[start:stop], valid[start:stop] = self.rows, self.valid
        return rows, valid, valid & ~whole.valid


def _still_true(merged: Merged, tail: Timeline, before: int) -> int:
    """How many rows at the front of the tail the merge left true."""
    if merged.spoiled is None:
        return before - merged.cut
    key, is_own_row_true = merged.spoiled
    at = tail.before(key)
    return at + 1 if is_own_row_true and at < len(tail) and tail.key(at) == key else at


def _moved(stored: Stored, cut: int, true: int, count: int, skipped: int) -> Whole:
    """The rows that stay true, at their new places."""
    rows = np.zeros(count, stored.rows.dtype)
    valid = np.zeros(count, np.bool_)
    rows[:true] = stored.rows[cut : cut + true]
    valid[:true] = stored.valid[cut : cut + true]
    if not stored.rows.dtype.itemsize:
        valid[:] = True
    return Whole(frozen(rows), frozen(valid), skipped)
