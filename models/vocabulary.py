"""Vocabulary: item ids to rows of the item tables. Leaf, without torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import Any, overload

import numpy as np
import pyarrow as pa
import xxhash

Array = np.ndarray[Any, Any]

#: From here on a dictionary and a list of Python's would take more memory than the model: 280
#: bytes an item against 30. Looking 100 ids up then takes a tenth of a millisecond more.
LARGE = 1_000_000
ITERATED = 1 << 16


class TextColumn(Sequence[Any]):
    """Texts, or None, of millions of items, which become Python's only when they are asked for."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self._column = column.combine_chunks()

    def __len__(self) -> int:
        return len(self._column)

    @overload
    def __getitem__(self, place: int) -> Any: ...
    @overload
    def __getitem__(self, place: slice) -> list[Any]: ...
    def __getitem__(self, place: int | slice) -> Any:
        if isinstance(place, slice):
            return self._column[place].to_pylist()
        return self._column[place].as_py()

    def __iter__(self) -> Iterator[Any]:
        for first in range(0, len(self), ITERATED):
            yield from self._column[first : first + ITERATED].to_pylist()


def texts(column: pa.ChunkedArray) -> Sequence[Any]:
    """A column as a list or, of a large vocabulary, as it is."""
    return TextColumn(column) if len(column) >= LARGE else column.to_pylist()


class HashedRows:
    """Rows of millions of ids, by sorted hashes; what is found is compared with the id itself."""

    def __init__(self, ids: Sequence[str]) -> None:
        self._ids = ids
        hashes = np.fromiter(map(hash_of, ids), np.uint64, len(ids))
        self._order = np.argsort(hashes, kind="stable").astype(np.int32)
        self._hashes = hashes[self._order]
        # Two ids of one hash are next to each other; the second of them is found here.
        again = np.flatnonzero(self._hashes[1:] == self._hashes[:-1]) + 1
        self._twins = {ids[row]: row for row in self._order[again].tolist()}

    def get(self, item_id: str, missing: int | None = None) -> int | None:
        wanted = np.uint64(hash_of(item_id))
        place = int(np.searchsorted(self._hashes, wanted))
        if place == len(self._hashes) or self._hashes[place] != wanted:
            return missing
        row = int(self._order[place])
        return row if self._ids[row] == item_id else self._twins.get(item_id, missing)

    def __contains__(self, item_id: object) -> bool:
        return isinstance(item_id, str) and self.get(item_id) is not None


def hash_of(some_id: str) -> int:
    """64 bits of the id's UTF-8 bytes, the same in every process."""
    return xxhash.xxh3_64_intdigest(some_id.encode())


class Vocabulary:
    """Item ids to embedding rows; an unknown id falls on one of the shared, trained rows."""

    def __init__(
        self,
        ids: Sequence[str],
        names: Sequence[str | None],
        fallback_rows: int,
        categories: Sequence[int] = (),
    ) -> None:
        self.ids = ids
        self.names = names
        self.fallback_rows = fallback_rows
        #: (rows,) int64, 0 where there is none: what a search by category looks for.
        self.categories = np.zeros(len(ids) + fallback_rows, np.int64)
        self.categories[: len(categories)] = categories
        self._rows: dict[str, int] | HashedRows = (
            HashedRows(ids)
            if isinstance(ids, TextColumn)
            else {item_id: row for row, item_id in enumerate(ids)}
        )

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, item_id: str) -> bool:
        return item_id in self._rows

    def find(self, item_id: str) -> int | None:
        """The row of an item that training has seen."""
        return self._rows.get(item_id)

    def row(self, item_id: str) -> int:
        known = self._rows.get(item_id)
        if known is not None:
            return known
        return len(self.ids) + hash_of(item_id) % self.fallback_rows

    def rows(self, item_ids: Sequence[str]) -> Array:
        """Embedding rows of `item_ids`: int64, (items,)."""
        rows = np.fromiter(map(self._rows.get, item_ids, repeat(-1)), np.int64, len(item_ids))
        for missing in np.flatnonzero(rows < 0).tolist():
            rows[missing] = self.row(item_ids[missing])
        return rows

    def name(self, item_id: str) -> str | None:
        row = self._rows.get(item_id)
        return None if row is None else self.names[row]
