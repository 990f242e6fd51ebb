"""Projections: what layers attend to of a user's events, by category, made once and kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from service.job import Array

MOST_KEPT = 64
"""Categories of one user; whoever asks about more makes them anew."""


class Projections:
    """Keys and values of the events found for each category, as the graph `found` reads them.

    Beside them lie the events that they were made from, so that the next version of a user takes
    over what is still true.
    """

    def __init__(self) -> None:
        self._kinds: list[int] = []  # ascending
        # Both (categories, …).
        self._events: dict[str, Array] = {}
        self._ready: dict[str, Array] = {}

    def __repr__(self) -> str:
        return f"<Projections of {len(self)} categories>"

    def __len__(self) -> int:
        return len(self._kinds)

    @property
    def size_bytes(self) -> int:
        """What its arrays hold."""
        return sum(part.nbytes for part in (*self._events.values(), *self._ready.values()))

    def missing(self, kinds: Sequence[int]) -> list[int]:
        """Those of the categories that are not here, ascending."""
        return sorted(set(kinds).difference(self._kinds))

    def put(
        self, kinds: Sequence[int], events: Mapping[str, Array], ready: Mapping[str, Array]
    ) -> None:
        """Takes in what was made from events, both (categories, …); what is here stays."""
        new = [place for place, kind in enumerate(kinds) if kind not in self._kinds]
        every = [*self._kinds, *(kinds[place] for place in new)]
        order = np.argsort(every)
        for held, parts in ((self._events, events), (self._ready, ready)):
            for name, part in parts.items():
                known = [held[name]] if name in held else []
                held[name] = np.concatenate([*known, part[new]])[order]
        self._kinds = sorted(every)

    def take_over(
        self, kinds: Sequence[int], events: Mapping[str, Array], earlier: Projections
    ) -> None:
        """Takes in what `earlier` made of these categories, if from the same events."""
        for place, kind in enumerate(kinds):
            if kind in earlier._kinds:
                row = earlier._kinds.index(kind)
                made_from = {name: part[row] for name, part in earlier._events.items()}
                if all(np.array_equal(made_from[name], events[name][place]) for name in made_from):
                    self.put(
                        [kind], *(_row(held, row) for held in (earlier._events, earlier._ready))
                    )

    def of(self, kinds: Sequence[int]) -> dict[str, Array]:
        """What the graph reads of categories that are here, (kinds, …); of all of them uncopied."""
        if list(kinds) == self._kinds:
            return dict(self._ready)
        rows = np.searchsorted(self._kinds, kinds)
        return {name: part[rows] for name, part in self._ready.items()}


def _row(parts: Mapping[str, Array], row: int) -> dict[str, Array]:
    return {name: part[row, None] for name, part in parts.items()}
