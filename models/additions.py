"""Additions: retrieval's items beyond the trained ones, made from what items are, not from events.

A linear map from an item's categories to its row of the table is fitted to the trained rows
(ridge regression), so that an item nobody has met stands where its like stand: the two-tower
models' way to start a new item.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

Array = np.ndarray[Any, Any]

CONTENT, ADDED = "content.parquet", "added.parquet"
#: As if every category had this many more items that say nothing.
RIDGE = 5.0
#: Rarer categories say too little.
LEAST_ITEMS = 3

#: An item's categories, each as column and value.
Categories = Mapping[str, Sequence[tuple[str, str]]]


@dataclass(frozen=True, slots=True, eq=False)
class Additions:
    """The map and the items that were added through it."""

    categories: list[tuple[str, str]]
    weights: Array  # (1 + categories, width + 1), what every item has first
    ids: list[str]
    names: list[str | None]
    vectors: Array  # (items, width + 1)

    @classmethod
    def fit(cls, table: Array, item_ids: Sequence[str], categories: Categories) -> Self:
        """The map that fits the trained `table` (items, width + 1); nothing is added yet."""
        known: dict[tuple[str, str], int] = {}
        for item_id in item_ids:
            for category in categories.get(item_id, ()):
                known[category] = known.get(category, 0) + 1
        kept = sorted(category for category, count in known.items() if count >= LEAST_ITEMS)
        square = np.diag([1e-3, *[RIDGE] * len(kept)])
        moment = np.zeros((len(square), table.shape[1]))
        for some in _parts(len(item_ids)):
            features = _features(kept, item_ids[some], categories)
            square += features.T @ features
            moment += features.T @ table[some]
        weights = np.linalg.solve(square, moment)
        return cls(kept, weights.astype(np.float32), [], [], table[:0])

    def add(
        self, item_ids: list[str], names: list[str | None], categories: Categories
    ) -> Additions:
        """With these items behind the ones that are there; their ids must be new."""
        made = [
            _features(self.categories, item_ids[some], categories) @ self.weights
            for some in _parts(len(item_ids))
        ]
        return replace(
            self,
            ids=self.ids + item_ids,
            names=self.names + names,
            vectors=np.concatenate([self.vectors, *made]),
        )

    def write(self, folder: Path) -> None:
        """Into a bundle."""
        keys = [("", ""), *self.categories]
        columns, values = [key[0] for key in keys], [key[1] for key in keys]
        content = {"column": columns, "value": values, "vector": list(self.weights)}
        pq.write_table(pa.table(content), folder / CONTENT)
        added = {
            "item_id": pa.array(self.ids, pa.string()),
            "name": pa.array(self.names, pa.string()),
            "vector": pa.FixedSizeListArray.from_arrays(
                pa.array(self.vectors.ravel()), self.weights.shape[1]
            ),
        }
        pq.write_table(pa.table(added), folder / ADDED)

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """Of a bundle; None if it was trained without categories."""
        if not (folder / CONTENT).is_file():
            return None
        content, added = pq.read_table(folder / CONTENT), pq.read_table(folder / ADDED)
        keys = list(zip(content["column"].to_pylist(), content["value"].to_pylist(), strict=True))
        weights = np.stack(content["vector"].to_numpy()).astype(np.float32)
        vectors = added["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return cls(
            keys[1:],
            weights,
            added["item_id"].to_pylist(),
            added["name"].to_pylist(),
            vectors.astype(np.float32).reshape(-1, weights.shape[1]),
        )


def _parts(count: int, size: int = 50_000) -> Iterator[slice]:
    return (slice(first, first + size) for first in range(0, count, size))


def _features(
    kept: Sequence[tuple[str, str]], item_ids: Sequence[str], categories: Categories
) -> Array:
    """A one for every item, and for each of its categories: (items, 1 + categories)."""
    place = {category: column for column, category in enumerate(kept, 1)}
    features = np.zeros((len(item_ids), 1 + len(kept)), np.float32)
    features[:, 0] = 1
    for row, item_id in enumerate(item_ids):
        for category in categories.get(item_id, ()):
            if category in place:
                features[row, place[category]] = 1
    return features
