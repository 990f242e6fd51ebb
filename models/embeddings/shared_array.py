"""Robe and Lma: every item's vector is put together from stretches of one array that all share.

Robe (Desai and others, arXiv 2108.02191) hashes each block of a vector to a stretch, so that what
is close in memory is read together. Lma (arXiv 2102.10803) lets meaning decide: its hash is
locality-sensitive, so that items liked by the same users share more of their numbers.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from models.embeddings.hashing import MULTIPLIER, OFFSET, PRIME, hashed, write_hashed
from models.embeddings.item_table import Array, ItemTable, numbers

if TYPE_CHECKING:
    from models.graph import GraphBuilder

#: Stretches that a vector is made of, where the width allows it.
MOST_BLOCKS = 4
#: Rows that are fitted at once.
FITTED = 1 << 16


class SharedArray(ItemTable):
    """An array of `budget` numbers; a vector is `blocks` stretches of it, which may overlap."""

    def __init__(self, rows: int, width: int, fallback: int, budget: int) -> None:
        super().__init__(rows, width, fallback)
        self.blocks = math.gcd(width, MOST_BLOCKS)
        self.stretch = width // self.blocks
        self.weight = nn.Parameter(torch.empty(max(self.stretch, budget)).normal_())

    @abstractmethod
    def starts(self, rows: Tensor) -> Tensor:
        """Where the stretches of each row begin: (…, blocks) int64."""

    @abstractmethod
    def write_starts(self, g: GraphBuilder, rows: str) -> str:
        """`starts` as nodes."""

    def forward(self, rows: Tensor) -> Tensor:
        return nn.functional.embedding(self._places(rows), self.weight[:, None]).squeeze(-1)

    def _places(self, rows: Tensor) -> Tensor:
        """(…, width); behind the array's end lies its beginning."""
        places = self.starts(rows)[..., None] + torch.arange(self.stretch)
        return (places % len(self.weight)).flatten(-2)

    def write(self, g: GraphBuilder, rows: str) -> str:
        starts = g.add("Unsqueeze", self.write_starts(g, rows), g.ints(-1))
        places = g.add("Add", starts, g.ints(*range(self.stretch)))
        places = g.add("Mod", places, g.ints(len(self.weight)))
        shape = g.add("Concat", g.add("Shape", rows), g.ints(self.width), axis=0)
        found = g.add("Gather", g.floats(numbers(self.weight)), places)
        return g.add("Reshape", found, shape)

    def fit(self, wanted: Tensor, weight: Tensor) -> None:
        sums, total = (torch.zeros_like(self.weight) for _ in range(2))
        for first in range(0, self.rows, FITTED):
            part = slice(first, min(first + FITTED, self.rows))
            places = self._places(torch.arange(part.start, part.stop))
            counted = weight[part, None].expand_as(places)
            sums.index_add_(0, places.flatten(), (wanted[part] * counted).flatten())
            total.index_add_(0, places.flatten(), counted.flatten())
        self.weight.copy_(sums / total.clamp(min=1e-6))


class Robe(SharedArray):
    """Stretches by a hash of row and block."""

    def starts(self, rows: Tensor) -> Tensor:
        keys = rows[..., None] * self.blocks + torch.arange(self.blocks)
        return hashed(keys, len(self.weight))

    def write_starts(self, g: GraphBuilder, rows: str) -> str:
        first = g.add("Mul", g.add("Unsqueeze", rows, g.ints(-1)), g.ints(self.blocks))
        keys = g.add("Add", first, g.ints(*range(self.blocks)))
        return write_hashed(g, keys, len(self.weight))


class Lma(SharedArray):
    """Stretches by a min-hash of who liked the item, one for each block.

    Two items share a block as often as their likers overlap (Jaccard). Where a stretch begins is
    kept for each item: its likers are not known when it is served.
    """

    def __init__(self, rows: int, width: int, fallback: int, budget: int) -> None:
        super().__init__(rows, width, fallback, budget)
        self.kept: Tensor
        alone = _alone(np.arange(rows), self.blocks, len(self.weight))
        self.register_buffer("kept", torch.from_numpy(alone))

    def starts(self, rows: Tensor) -> Tensor:
        return nn.functional.embedding(rows, self.kept).long()

    def write_starts(self, g: GraphBuilder, rows: str) -> str:
        kept = g.add("Gather", g.constant(numbers(self.kept), "int32"), rows)
        return g.add("Cast", kept, to=7)  # int64

    def settle(self, users: Array, items: Array, is_liked: Array) -> None:
        users, items = users[is_liked], items[is_liked]
        for block in range(self.blocks):
            likers = _mixed(users * self.blocks + block)
            least = np.full(self.rows, PRIME, np.int64)
            np.minimum.at(least, items, likers)
            known = least < PRIME
            kept = self.kept.numpy()
            kept[known, block] = _mixed(least[known]) % len(self.weight)


def _mixed(keys: Array) -> Array:
    found: Array = (keys * MULTIPLIER + OFFSET) % PRIME
    return found


def _alone(rows: Array, blocks: int, places: int) -> Array:
    """Where nobody's likes are known, Robe's places."""
    keys = rows[:, None] * blocks + np.arange(blocks)
    found: Array = (_mixed(keys) % places).astype(np.int32)
    return found
