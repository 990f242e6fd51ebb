"""Banded and AutoEmb: items in the order of popularity, in bands that have widths of their own.

Banded is the mixed-dimension table (Ginart and others, arXiv 1909.11810): each band a table of its
own and a projection to the model's width. AutoEmb (Zhao and others, arXiv 2002.11252) lets popular
items have several vectors, narrow and wide, and a small network weighs them by popularity.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from models.embeddings.item_table import Array, ItemTable, numbers
from models.embeddings.sizes import BANDS

if TYPE_CHECKING:
    from models.graph import GraphBuilder

INT64 = 7  # as ONNX numbers its types
MASKED = -1e4
HIDDEN = 8


class Banded(ItemTable):
    """A row and a projection for every item, of the width of its band."""

    def __init__(self, rows: int, width: int, fallback: int, widths: tuple[int, ...]) -> None:
        super().__init__(rows, width, fallback)
        own = rows - fallback
        self.ends = [min(rows, fallback + max(1, own // part)) for part in BANDS[:-1]] + [rows]
        # The place of each row, 0 for the most popular; shared rows come before all others.
        self.place: Tensor
        self.register_buffer("place", torch.arange(rows - 1, -1, -1, dtype=torch.int32))
        sizes = [max(1, end - first) for first, end in self.bands()]
        self.tables = nn.ParameterList(
            torch.empty(size, each).normal_() for size, each in zip(sizes, widths, strict=True)
        )
        self.projections = nn.ParameterList(torch.zeros(each, width) for each in widths)

    def bands(self) -> list[tuple[int, int]]:
        """Of each band, the first place and the end of those that its table has a row for."""
        return list(zip([0, *self.ends], self.ends, strict=False))

    def by(self) -> list[Tensor]:
        """Of each band, the projection to the model's width: (its width, width)."""
        return list(self.projections)

    def settle(self, users: Array, items: Array, is_liked: Array) -> None:
        counts = np.bincount(items, minlength=self.rows)
        counts[self.rows - self.fallback :] = len(items) + 1
        order = np.argsort(-counts, kind="stable")
        self.place.numpy()[order] = np.arange(self.rows, dtype=np.int32)

    def forward(self, rows: Tensor) -> Tensor:
        places = nn.functional.embedding(rows, self.place[:, None]).long()  # (…, 1)
        found = None
        for share, band, table, by in zip(
            self.shares(places), self.bands(), self.tables, self.by(), strict=True
        ):
            at = (places[..., 0] - band[0]).clamp(0, len(table) - 1)
            part = (nn.functional.embedding(at, table) @ by) * share
            found = part if found is None else found + part
        assert found is not None  # noqa: S101 - there are bands
        return found

    def shares(self, places: Tensor) -> list[Tensor]:
        """How much each band's vector counts at places (…, 1): each (…, 1)."""
        return [self._inside(places, band).float() for band in self.bands()]

    def _inside(self, places: Tensor, band: tuple[int, int]) -> Tensor:
        return (places >= band[0]) & (places < band[1])

    def write(self, g: GraphBuilder, rows: str) -> str:
        place = g.add("Gather", g.constant(numbers(self.place), "int32"), rows)
        places = g.add("Unsqueeze", g.add("Cast", place, to=INT64), g.ints(-1))
        found = ""
        for share, (first, _), table, by in zip(
            self.write_shares(g, places), self.bands(), self.tables, self.by(), strict=True
        ):
            at = g.add("Sub", g.add("Squeeze", places, g.ints(-1)), g.constant(first, "int64"))
            last = g.constant(len(table) - 1, "int64")
            at = g.add("Clip", at, g.constant(0, "int64"), last)
            part = g.add(
                "MatMul", g.add("Gather", g.floats(numbers(table)), at), g.floats(numbers(by))
            )
            part = g.add("Mul", part, share)
            found = g.add("Add", found, part) if found else part
        return found

    def write_shares(self, g: GraphBuilder, places: str) -> list[str]:
        """`shares` as nodes."""
        return [g.add("Cast", inside, to=1) for inside in self._write_inside(g, places)]

    def _write_inside(self, g: GraphBuilder, places: str) -> list[str]:
        return [
            g.add(
                "And",
                g.add("GreaterOrEqual", places, g.ints(first)),
                g.add("Less", places, g.ints(end)),
            )
            for first, end in self.bands()
        ]

    def fit(self, wanted: Tensor, weight: Tensor) -> None:
        """By principal components, the broadest band first; narrower ones get what it leaves."""
        order = self.place.long().argsort()
        left, weight = wanted[order], weight[order]
        count = torch.zeros(self.rows)  # of bands that know the item
        for first, end in self.bands():
            count[first:end] += 1
        for (first, end), table, by in reversed(
            list(zip(self.bands(), self.tables, self.projections, strict=True))
        ):
            part = left[first:end]
            gram = part.T @ (part * weight[first:end, None])
            axes = torch.linalg.eigh(gram).eigenvectors.flip(1)[:, : table.shape[1]]
            told = part @ axes
            by.copy_(axes.T)
            table.zero_()
            table[: len(told)] = told * count[first:end, None]
            part -= told @ axes.T


class AutoEmb(Banded):
    """A narrow vector for every item, a wider one besides for each band of more popular ones."""

    def __init__(self, rows: int, width: int, fallback: int, widths: tuple[int, ...]) -> None:
        super().__init__(rows, width, fallback, widths)
        self.controller = nn.Linear(1, HIDDEN)
        self.logits = nn.Linear(HIDDEN, len(widths))
        for weight in self.logits.parameters():
            nn.init.zeros_(weight)  # all that an item has count the same at first

    def bands(self) -> list[tuple[int, int]]:
        return [(0, end) for end in self.ends]

    def shares(self, places: Tensor) -> list[Tensor]:
        popularity = 1 - (places + 1).float().log() / math.log(self.rows + 1)
        inside = torch.cat([self._inside(places, band) for band in self.bands()], dim=-1)
        logits = self.logits(self.controller(popularity).tanh()).masked_fill(~inside, MASKED)
        return list(logits.softmax(dim=-1).split(1, dim=-1))

    def write_shares(self, g: GraphBuilder, places: str) -> list[str]:
        first = g.add("Cast", g.add("Add", places, g.ints(1)), to=1)
        distance = g.add("Div", g.add("Log", first), g.floats(math.log(self.rows + 1)))
        found = g.add("Sub", g.floats(1.0), distance)
        for place, layer in enumerate((self.controller, self.logits)):
            found = g.add("Tanh", found) if place else found
            found = g.add("MatMul", found, g.floats(numbers(layer.weight).T))
            found = g.add("Add", found, g.floats(numbers(layer.bias)))
        inside = g.add("Concat", *self._write_inside(g, places), axis=-1)
        logits = g.add("Where", inside, found, g.floats(MASKED))
        shares = g.add("Softmax", logits, axis=-1)
        return list(g.split("Split", len(self.ends), shares, axis=-1, num_outputs=len(self.ends)))
