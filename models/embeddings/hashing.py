"""Hashed: items share the rows of a table that is shorter than the vocabulary.

The hashing trick (Weinberger and others, arXiv 0902.2206): which items share is left to chance.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from models.embeddings.item_table import ItemTable, numbers, shared_mean

if TYPE_CHECKING:
    from models.graph import GraphBuilder

#: h(x) = ((MULTIPLIER x + OFFSET) mod PRIME) mod places (Carter and Wegman, 1979): whole numbers,
#: so that PyTorch and every runtime agree; no product of rows below PRIME leaves 63 bits.
PRIME, MULTIPLIER, OFFSET = 2**31 - 1, 1_664_525_081, 1_013_904_223


def hashed(keys: Tensor, places: int) -> Tensor:
    """Places of keys, int64 from 0 up to PRIME."""
    return (keys * MULTIPLIER + OFFSET) % PRIME % places


def write_hashed(g: GraphBuilder, keys: str, places: int) -> str:
    """`hashed` as nodes."""
    mixed = g.add("Add", g.add("Mul", keys, g.ints(MULTIPLIER)), g.ints(OFFSET))
    return g.add("Mod", g.add("Mod", mixed, g.ints(PRIME)), g.ints(places))


class Hashed(ItemTable):
    """A table of `budget` numbers."""

    def __init__(self, rows: int, width: int, fallback: int, budget: int) -> None:
        super().__init__(rows, width, fallback)
        self.weight = nn.Parameter(torch.empty(max(1, budget // width), width).normal_())

    def forward(self, rows: Tensor) -> Tensor:
        return nn.functional.embedding(hashed(rows, len(self.weight)), self.weight)

    def write(self, g: GraphBuilder, rows: str) -> str:
        places = write_hashed(g, rows, len(self.weight))
        return g.add("Gather", g.floats(numbers(self.weight)), places)

    def fit(self, wanted: Tensor, weight: Tensor) -> None:
        places = hashed(torch.arange(self.rows), len(self.weight))
        self.weight.copy_(shared_mean(places, wanted, weight, len(self.weight)))
