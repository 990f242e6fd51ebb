"""Quotient: two short tables whose rows, multiplied, are different for every item.

The quotient-remainder trick (Shi and others, arXiv 1909.02107): of a row and a divisor m, one table
knows row // m and the other row % m. Its authors found the product better than the sum.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from models.embeddings.item_table import ItemTable, numbers, shared_mean

if TYPE_CHECKING:
    from models.graph import GraphBuilder

#: Rounds in which each table is fitted to the other.
ROUNDS = 10


class Quotient(ItemTable):
    """Two tables of `budget` numbers together, as near to it as a divisor comes."""

    def __init__(self, rows: int, width: int, fallback: int, budget: int) -> None:
        super().__init__(rows, width, fallback)
        self.divisor = _divisor(rows, budget // width)
        quotients = -(-rows // self.divisor)
        self.quotient = nn.Parameter(torch.ones(quotients, width))
        self.remainder = nn.Parameter(torch.empty(self.divisor, width).normal_())

    def forward(self, rows: Tensor) -> Tensor:
        found = nn.functional.embedding(rows % self.divisor, self.remainder)
        times = torch.div(rows, self.divisor, rounding_mode="floor")
        return found * nn.functional.embedding(times, self.quotient)

    def write(self, g: GraphBuilder, rows: str) -> str:
        divisor = g.ints(self.divisor)
        found = g.add("Gather", g.floats(numbers(self.remainder)), g.add("Mod", rows, divisor))
        times = g.add("Gather", g.floats(numbers(self.quotient)), g.add("Div", rows, divisor))
        return g.add("Mul", found, times)

    def fit(self, wanted: Tensor, weight: Tensor) -> None:
        rows = torch.arange(self.rows)
        classes = rows % self.divisor, torch.div(rows, self.divisor, rounding_mode="floor")
        self.quotient.fill_(1.0)
        self.remainder.copy_(shared_mean(classes[0], wanted, weight, len(self.remainder)))
        pairs = ((1, self.quotient, 0, self.remainder), (0, self.remainder, 1, self.quotient))
        for _ in range(ROUNDS):
            for own, table, other, by in pairs:
                times = by[classes[other]]
                # Least squares by column, pulled a little to what the table is now.
                gain = shared_mean(classes[own], times * wanted, weight, len(table))
                norm = shared_mean(classes[own], times * times, weight, len(table))
                ridge = 0.1 * norm.mean(dim=0) + 1e-6
                table.copy_((gain + ridge * table) / (norm + ridge))


def _divisor(rows: int, budget_rows: int) -> int:
    """The larger m with m + rows / m within the budget; of a budget too small, the best there is.

    The larger: what the remainders know is the items' own, what the quotients know only scales it.
    """
    least = max(1, math.isqrt(rows))
    room = budget_rows * budget_rows - 4 * rows
    if room <= 0:
        return least
    return max(least, min(rows, (budget_rows + math.isqrt(room)) // 2))
