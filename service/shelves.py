"""Hard search: which events of a history go with which candidates. Pure.

Events of the candidate's category come first, newest first; the newest others fill up. So
candidates of one category share what is found for them, and a request is a batch of a few rows:
in each of them candidates of one category and its events.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from service.job import QUERY_COST, Array


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
    seats: Array  # (C, 2): row and column of each candidate

    @classmethod
    def of(cls, categories: Array) -> Self:
        """Of the candidates' categories (C,)."""
        order = np.argsort(categories, kind="stable")
        kinds, starts, counts = np.unique(categories[order], return_index=True, return_counts=True)
        size = _best_size(counts)
        rows = -(-counts // size)  # of each category
        first = np.cumsum(rows) - rows
        owner = np.repeat(np.arange(len(kinds)), rows)
        place = np.arange(len(owner)) - first[owner]
        inside = place[:, None] * size + np.arange(size)  # (S, c) within the category
        inside[inside >= counts[owner, None]] = 0
        own = np.arange(len(categories)) - np.repeat(starts, counts)  # within the category
        seats = np.empty((len(categories), 2), np.int64)
        seats[order, 0] = np.repeat(first, counts) + own // size
        seats[order, 1] = own % size
        return cls(kinds[owner], order[starts[owner, None] + inside], seats)

    def __len__(self) -> int:
        return len(self.categories)

    @property
    def cost(self) -> int:
        """What its rows cost by themselves, in query-key pairs."""
        return ROW_COST // 2 * QUERY_COST * len(self)


def _best_size(counts: Array) -> int:
    """Candidates in a row: many waste padding, few repeat what each row costs by itself."""
    sizes = np.unique(np.concatenate([counts, -(-counts.max() // np.arange(1, 9))]))
    rows = (-(-counts // sizes[:, None])).sum(axis=1)
    return int(sizes[np.argmin(rows * (ROW_COST + sizes))])


#: What the keys and values of a row cost, in candidates that attend to them.
ROW_COST = 20
