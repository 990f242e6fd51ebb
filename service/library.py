"""Library: a long history in this process, with those of its rows that were needed so far."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Self

import numpy as np

from cache.base import StoredRows
from cache.snapshot import Snapshot
from models.spec import Spec
from service.features import History
from service.job import Array
from service.projections import MOST_KEPT, Projections
from service.rebuild import Plan, fields_of, plan_rebuild
from service.registry import Model
from service.shelves import Shelves


class Library:
    """What is known of a user as of one version; rows come in as they are read or rebuilt.

    `history` is all that can move a score. Targets find events in the newest `spec.history` of it,
    those that count; what lies before serves to rebuild rows.
    """

    def __init__(
        self, history: History, spec: Spec, categories: Array, snapshot: Snapshot | None = None
    ) -> None:
        count = len(history)
        self.history = history
        self.spec = spec
        self.snapshot = snapshot
        #: Events that nothing is searched in.
        self.first = max(0, count - spec.history)
        #: The places of those that something is searched in.
        self.searched = self.first + np.flatnonzero(spec.counted(history.feedback[self.first :]))
        self.shelves = Shelves(categories[history.items[self.searched]], spec.search)
        self.projections = Projections()
        #: Those of an earlier version of the user, to take over what is still true.
        self.before = Projections()
        self.rows = np.zeros(count, spec.row)
        self.valid = np.full(count, not spec.cached_depths)
        self.begins = snapshot is None or (snapshot.complete and not snapshot.trimmed)
        self.written_at_s: float | None = None
        self.good_until_s = snapshot.good_until_s if snapshot else math.inf
        self._skipped = snapshot.skipped if snapshot else 0
        counts = snapshot.stored.counts if snapshot else [count]
        # Where each stored chunk ends; the first and the last may lie in part outside.
        self._stops = np.cumsum(counts, dtype=np.int64) - self._skipped
        self._is_read = np.full(len(counts), snapshot is None or not spec.cached_depths)

    @classmethod
    def of(cls, snapshot: Snapshot, model: Model) -> Self:
        vocabulary = model.bundle.vocabulary
        history = History.of(snapshot.timeline, vocabulary, model.spec.tasks)
        return cls(history, model.spec, vocabulary.categories, snapshot)

    @property
    def size_bytes(self) -> int:
        """About what its arrays hold."""
        return self.rows.nbytes + 48 * len(self.history) + self._projected_bytes

    @property
    def _projected_bytes(self) -> int:
        return self.projections.size_bytes + self.before.size_bytes

    def find(self, categories: Iterable[int]) -> Array:
        """The places of the events found for each category: (categories, K), ascending."""
        found = np.stack([self.shelves.find(kind) for kind in categories])
        return np.asarray(self.searched[found])

    def projections_for(self, categories: list[int]) -> tuple[Projections, list[int]]:
        """Where keys and values of these categories are kept, and those not made yet."""
        missing = self.projections.missing(categories)
        if missing and len(self.projections) + len(missing) > MOST_KEPT:
            self.projections = Projections()  # who reads the others holds on to them
            missing = self.projections.missing(categories)
        return self.projections, missing

    def events_at(self, places: Array) -> dict[str, Array]:
        """What graphs read of events, in the shape of their places."""
        history = self.history
        return {
            "items": history.items[places],
            "timestamps": history.timestamps[places],
            "feedback": history.feedback[places],
            **fields_of(self.rows[places]),
        }

    def chunks_with(self, places: Array) -> list[int]:
        """The stored chunks of these events that were not read yet."""
        chunks = np.unique(np.searchsorted(self._stops, places, side="right"))
        return [int(chunk) for chunk in chunks if not self._is_read[chunk]]

    def take(self, chunks: list[int], stored: StoredRows) -> None:
        """Takes in the rows of some chunks as they were read."""
        at = 0
        for chunk in chunks:
            stop = int(self._stops[chunk])
            start = int(self._stops[chunk - 1]) if chunk else -self._skipped
            low, high = max(start, 0), min(stop, len(self.rows))
            part = slice(at + low - start, at + high - start)
            fresh = stored.valid[part] & ~self.valid[low:high]
            self.rows[low:high][fresh] = stored.rows[part][fresh]
            self.valid[low:high] |= fresh
            self._is_read[chunk] = True
            at += stop - start
        self.good_until_s = min(self.good_until_s, stored.good_until_s)
        if stored.written_at_s is not None:
            self.written_at_s = max(self.written_at_s or 0.0, stored.written_at_s)

    def gaps(self, places: Array) -> Iterator[Plan]:
        """What makes the rows at these places (ascending) valid, one stretch after the other."""
        missing = places[~self.valid[places]]
        while len(missing):
            breaks = np.flatnonzero(np.diff(missing) > self.spec.window)
            end = int(missing[breaks[0] if len(breaks) else -1]) + 1
            yield plan_rebuild(
                self.valid[:end], need_from=int(missing[0]), begins=self.begins, spec=self.spec
            )
            missing = missing[missing >= end]

    def put(self, plan: Plan, built: Array) -> None:
        """Takes in rows as they were rebuilt."""
        self.rows[plan.first : plan.end] = built
        self.valid[plan.first : plan.end] = True

    def beside(self, plans: list[Plan]) -> Array:
        """Marks of the valid rows in the chunks that plans changed: those are written whole."""
        marks = np.zeros(len(self.valid), np.bool_)
        edges = np.concatenate([[0], np.clip(self._stops, 0, len(self.valid))])
        for plan in plans:
            low = edges[np.searchsorted(edges, plan.first, side="right") - 1]
            high = edges[np.searchsorted(edges, plan.end, side="left")]
            marks[low:high] = self.valid[low:high]
        return marks
