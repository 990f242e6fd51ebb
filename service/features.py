"""Ids, times and feedback as the arrays that the graphs take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from cache.timeline import Timeline
from models.vocabulary import TextColumn, Vocabulary
from service.ids import Ids
from service.job import Array

TABLE_SPREAD = 8
"""Numbers up to this many times their count are looked up in an array, others in a dictionary."""


@dataclass(frozen=True, slots=True, eq=False)
class History:
    """Events as columns: what the graphs read of a timeline."""

    items: Array  # (events,) int64 vocabulary rows
    timestamps: Array  # (events,) int64 seconds
    feedback: Array  # (events, tasks) int8, -1 unknown

    @classmethod
    def of(cls, timeline: Timeline, vocabulary: Vocabulary, tasks: Sequence[str]) -> Self:
        return cls(
            vocabulary.rows(timeline.item_ids),
            timeline.timestamps,
            timeline.labels(tasks),
        )

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, span: slice) -> History:
        return History(self.items[span], self.timestamps[span], self.feedback[span])

    def without(self, place: int) -> History:
        """All events but one."""
        columns = (self.items, self.timestamps, self.feedback)
        return History(*(np.delete(column, place, axis=0) for column in columns))

    def feed(self, prefix: str = "") -> dict[str, Array]:
        """The columns under the names of the graphs' inputs."""
        return {
            f"{prefix}items": self.items,
            f"{prefix}timestamps": self.timestamps,
            f"{prefix}feedback": self.feedback,
        }


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """The items of a request."""

    ids: Array | Sequence[int | str]  # as they were sent; int64 where all of them are such numbers
    rows: Array  # (candidates,) int64 vocabulary rows
    unknown: list[int | str] = field(default_factory=list)  # ids on shared rows, once each

    def __len__(self) -> int:
        return len(self.rows)

    def ranked(self, scores: Array, count: int | None) -> Array | list[int | str]:
        """The ids of the `count` highest scores (candidates,), best first, of equal ones the first.

        Sorted from the end, so that a stable sort read backwards keeps equal ones in their order:
        negating the scores would be one more piece of numpy to bring into the processor's caches.
        """
        backwards = scores[::-1].argsort(kind="stable")[::-1][:count]
        if isinstance(self.ids, np.ndarray):
            return self.ids[::-1][backwards]
        return [self.ids[~place] for place in backwards.tolist()]


class Lexicon:
    """Candidates to vocabulary rows without turning every number into text first.

    A list of numbers is one array from here on: touching its objects again behind a run of the
    graph, which leaves the processor's caches full of weights, would cost more than the look-up.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        ids = vocabulary.ids
        numbers = np.fromiter(map(_table_number, ids), np.int64, len(ids))
        self._row_of_number = _table(numbers)
        # A dictionary of millions would take more memory than the model.
        self._rows = _AnyId(vocabulary) if isinstance(ids, TextColumn) else _both(ids)

    def look_up(self, ids: Sequence[int | str]) -> Candidates:
        """The candidates, in the same order."""
        numbers = (ids if isinstance(ids, Ids) else Ids(ids)).numbers
        if numbers is None:
            return self._look_up_any(ids, ids)
        table = self._row_of_number
        # Negative ones are very large without their sign.
        if np.maximum.reduce(numbers.view(np.uint64)) >= len(table):
            return self._look_up_any(ids, numbers)
        rows = table[numbers]
        return (
            self._with_unknown(ids, numbers, rows)
            if np.minimum.reduce(rows) < 0
            else Candidates(numbers, rows)
        )

    def _look_up_any(
        self, ids: Sequence[int | str], kept: Array | Sequence[int | str]
    ) -> Candidates:
        try:
            rows = np.fromiter(map(self._rows.__getitem__, ids), np.int64, len(ids))
        except KeyError:
            rows = np.array([self._rows.get(item_id, -1) for item_id in ids], np.int64)
            return self._with_unknown(ids, kept, rows)
        return Candidates(kept, rows)

    def _with_unknown(
        self, ids: Sequence[int | str], kept: Array | Sequence[int | str], rows: Array
    ) -> Candidates:
        unknown: dict[int | str, None] = {}
        for place in np.flatnonzero(rows < 0).tolist():
            rows[place] = self._vocabulary.row(str(ids[place]))
            unknown[ids[place]] = None
        return Candidates(kept, rows, list(unknown))


class _AnyId:
    """Rows of ids of either type, without a dictionary."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._find = vocabulary.find

    def __getitem__(self, item_id: int | str) -> int:
        if (row := self._find(str(item_id))) is None:
            raise KeyError(item_id)
        return row

    def get(self, item_id: int | str, missing: int) -> int:
        row = self._find(str(item_id))
        return missing if row is None else row


def _both(ids: Sequence[str]) -> dict[int | str, int]:
    """Rows of ids as text and, where they are written like numbers, as numbers."""
    rows: dict[int | str, int] = {}
    for row, item_id in enumerate(ids):
        rows[item_id] = row
        number = _as_number(item_id)
        if number is not None:
            rows[number] = row
    return rows


def _table(numbers: Array) -> Array:
    """Rows by number, -1 where there is none; empty if the numbers lie too far apart.

    `numbers` (rows,) int64 are the ids', -1 for those that are none or that no table holds.
    """
    rows = np.flatnonzero(numbers >= 0)
    most = int(numbers.max(initial=0))
    if not len(rows) or most > TABLE_SPREAD * len(rows) + TABLE_SPREAD:
        return np.zeros(0, np.int64)
    table = np.full(most + 1, -1, np.int64)
    table[numbers[rows]] = rows
    return table


def _table_number(item_id: str) -> int:
    number = _as_number(item_id)
    return number if number is not None and 0 <= number < 2**63 else -1


def _as_number(item_id: str) -> int | None:
    """The number that is written exactly like this id, if there is one."""
    if not item_id.isascii() or len(item_id) > 20:
        return None
    digits = item_id.removeprefix("-")
    return int(item_id) if digits.isdigit() and str(int(item_id)) == item_id else None
