"""Hard search: which events of a history go with which candidates. Pure.

Events of the candidate's category come first, newest first; the newest others fill up. So
candidates of one category share what is found for them, and a request is a batch of a few rows:
in each of them candidates of one category and its events.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from models.operations import operations
from models.spec import Spec
from service.job import Array


class Shelves:
    """The places of a history's events by category; what was found once is kept."""

    def __init__(self, categories: Array, most: int) -> None:
        self._most = min(most, len(categories))
        self._categories = categories
        self._order = np.argsort(categories, kind="stable")
        self._sorted = categories[self._order]
        self._found: dict[int, Array] = {}

    def find(self, category: int) -> Array:
        """The places of the events to attend to, ascending: `most`, or as many as there are."""
        found = self._found.get(category)
        if found is None:
            found = self._found[category] = self._look(category)
        return found

    def _look(self, category: int) -> Array:
        low, high = np.searchsorted(self._sorted, (category, category + 1))
        same = self._order[max(low, high - self._most) : high]
        left = self._most - len(same)
        if not left:
            return same
        # Among the newest `most` events there are `left` others, or all of them are.
        last = len(self._categories)
        newest = np.arange(last - self._most, last)
        others = newest[self._categories[newest] != category][-left:]
        return np.sort(np.concatenate([same, others]))


@dataclass(frozen=True, slots=True, eq=False)
class Slots:
    """The rows of a request's batch: whose candidates, and of which category."""

    categories: Array  # (S,)
    places: Array  # (S, c) of candidates; where a category has fewer, the first one again

    @classmethod
    def of(cls, categories: Array, spec: Spec) -> Self:
        """Of the candidates' categories (C,)."""
        order = np.argsort(categories, kind="stable")
        kinds, starts, counts = np.unique(categories[order], return_index=True, return_counts=True)
        size = _best_size(counts, spec)
        rows = -(-counts // size)  # of each category
        owner = np.repeat(np.arange(len(kinds)), rows)
        place = np.arange(len(owner)) - np.repeat(np.cumsum(rows) - rows, rows)
        inside = place[:, None] * size + np.arange(size)  # (S, c) within the category
        inside[inside >= counts[owner, None]] = 0
        return cls(kinds[owner], order[starts[owner, None] + inside])

    def __len__(self) -> int:
        return len(self.categories)

    def gathered(self, scores: Array) -> Array:
        """Scores (S, c, tasks) as they were asked for: (candidates, tasks)."""
        found = np.empty((int(self.places.max()) + 1, scores.shape[2]), scores.dtype)
        found[self.places] = scores
        return found


def _best_size(counts: Array, spec: Spec) -> int:
    """Candidates in a row: many waste padding, few repeat the work on the events."""
    work = operations(spec)
    sizes = np.unique(np.concatenate([counts, -(-counts.max() // np.arange(1, 9))]))
    rows = (-(-counts // sizes[:, None])).sum(axis=1)
    costs = rows * (work.per_request + sizes * work.per_candidate)
    return int(sizes[np.argmin(costs)])
