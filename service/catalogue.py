"""Catalogue: the items of a bundle, found by what a person types of their name or id."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from functools import lru_cache
from itertools import accumulate

from models.bundle import Vocabulary

_BREAKS = re.compile(r"[\x00-\x1f]")


class Catalogue:
    """All ids and names as one text, because searching one text is what the machine is quick at.

    A line is an item: its id, a tab, its name.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        pairs = zip(vocabulary.ids, vocabulary.names, strict=True)
        lines = [f"\n{_folded(item_id)}\t{_folded(name or '')}" for item_id, name in pairs]
        self._text = "".join(lines)
        self._starts = list(accumulate(map(len, lines), initial=0))[:-1]

    def find(self, words: str, limit: int) -> list[int]:
        """Rows of the items that fit best: the id itself, then beginnings, then anything inside.

        Nothing typed finds the first items.
        """
        typed = _folded(words)
        if not typed:
            return list(range(min(limit, len(self._starts))))
        found: dict[int, None] = {}
        for wanted in (f"\n{typed}\t", f"\t{typed}", f"\n{typed}", f" {typed}", typed):
            for row in self._rows(wanted):
                found[row] = None
                if len(found) >= limit:
                    return list(found)
        return list(found)

    def _rows(self, wanted: str) -> Iterator[int]:
        """Rows that hold a text, each once."""
        at = self._text.find(wanted)
        while at >= 0:
            row = bisect_right(self._starts, at) - 1
            yield row
            after = self._starts[row + 1] if row + 1 < len(self._starts) else len(self._text)
            at = self._text.find(wanted, after)


@lru_cache(maxsize=8)
def catalogue_of(vocabulary: Vocabulary) -> Catalogue:
    """The catalogue of a loaded bundle, made when it is first asked for."""
    return Catalogue(vocabulary)


def _folded(text: str) -> str:
    return _BREAKS.sub(" ", text.casefold())
