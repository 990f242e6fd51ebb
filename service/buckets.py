"""Sizes that a run's axes are rounded up to, so that a device meets few shapes. Pure.

A GPU runtime plans its memory anew for every shape it has not seen. What is added is padding that
the graphs' masks drop, so scores do not change.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product

QUERIES = (16, 64, 128, 256, 512, 1024, 2048)
BATCHES = (1, 2, 4, 8)


@dataclass(frozen=True, slots=True)
class Buckets:
    """Where each axis may end; what is larger than the last goes to the next power of two."""

    records: int
    queries: tuple[int, ...] = QUERIES
    batches: tuple[int, ...] = BATCHES

    def rounded(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """Each axis at its bucket's end."""
        return {axis: _up(size, self._ends(axis)) for axis, size in sizes.items()}

    def shapes(self) -> Iterator[dict[str, int]]:
        """Every shape of `rank.onnx` that is warmed before the first request."""
        for batch, candidates in product(self.batches, self.queries):
            yield {"batch": batch, "candidates": candidates, "records": self.records}

    def _ends(self, axis: str) -> tuple[int, ...]:
        ends = {"batch": self.batches, "records": (self.records,)}
        return ends.get(axis, self.queries)


def _up(size: int, ends: tuple[int, ...]) -> int:
    place = bisect_left(ends, size)
    return ends[place] if place < len(ends) else 1 << (size - 1).bit_length()
