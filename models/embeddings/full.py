"""Full: a vector for every item."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from models.embeddings.item_table import ItemTable, numbers

if TYPE_CHECKING:
    from models.graph import GraphBuilder


class Full(ItemTable):
    """A table (rows, width)."""

    def __init__(self, rows: int, width: int, fallback: int) -> None:
        super().__init__(rows, width, fallback)
        self.weight = nn.Parameter(torch.empty(rows, width).normal_())

    def forward(self, rows: Tensor) -> Tensor:
        return nn.functional.embedding(rows, self.weight)

    def write(self, g: GraphBuilder, rows: str) -> str:
        return g.add("Gather", g.floats(numbers(self.weight)), rows)

    def fit(self, wanted: Tensor, weight: Tensor) -> None:
        self.weight.copy_(wanted)
