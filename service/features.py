"""Ids, times and feedback as the arrays that the graphs take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from cache.timeline import Timeline
from models.bundle import Vocabulary
from service.job import Array


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

    def feed(self, prefix: str = "") -> dict[str, Array]:
        """The columns under the names of the graphs' inputs."""
        return {
            f"{prefix}items": self.items,
            f"{prefix}timestamps": self.timestamps,
            f"{prefix}feedback": self.feedback,
        }


class Lexicon:
    """Candidates to vocabulary rows without turning every number into text first."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._rows: dict[int | str, int] = {}
        for row, item_id in enumerate(vocabulary.ids):
            self._rows[item_id] = row
            number = _as_number(item_id)
            if number is not None:
                self._rows[number] = row

    def rows(self, ids: Sequence[int | str]) -> tuple[Array, list[int | str]]:
        """The row of every id, and the ids (once each) that fell on a shared row."""
        try:
            return np.fromiter(map(self._rows.__getitem__, ids), np.int64, len(ids)), []
        except KeyError:
            return self._rows_with_unknown(ids)

    def _rows_with_unknown(self, ids: Sequence[int | str]) -> tuple[Array, list[int | str]]:
        rows = np.array([self._rows.get(item_id, -1) for item_id in ids], np.int64)
        unknown: dict[int | str, None] = {}
        for place in np.flatnonzero(rows < 0).tolist():
            rows[place] = self._vocabulary.row(str(ids[place]))
            unknown[ids[place]] = None
        return rows, list(unknown)


def _as_number(item_id: str) -> int | None:
    """The number that is written exactly like this id, if there is one."""
    if not item_id.isascii() or len(item_id) > 20:
        return None
    digits = item_id.removeprefix("-")
    return int(item_id) if digits.isdigit() and str(int(item_id)) == item_id else None
