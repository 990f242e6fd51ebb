"""Searching: bands that have all candidate widths at once, each with a weight that is learned.

AutoDim (Zhao and others, arXiv 2006.14827): the narrower widths are the first columns of the
wider. What the paper calls a field is a band of popularity here, because the item is the only
field that a model has.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from models.embeddings.banded import Banded
from models.embeddings.sizes import BANDS, numbers_of


class Searching(Banded):
    """Bands of the full width, whose columns count as much as the widths that have them."""

    def __init__(self, rows: int, width: int, fallback: int, compression: int) -> None:
        super().__init__(rows, width, fallback, (width,) * len(BANDS))
        self.mean_width = width / compression
        self.widths = candidate_widths(width, self.mean_width)
        # Learned from other events than everything else: whoever does that asks for the gradient.
        self.choice = nn.Parameter(torch.zeros(len(BANDS), len(self.widths)), requires_grad=False)
        has = torch.arange(width) < torch.tensor(self.widths)[:, None]
        self.has_column: Tensor
        self.register_buffer("has_column", has.float(), persistent=False)

    def by(self) -> list[Tensor]:
        counts = self.choice.softmax(dim=1) @ self.has_column  # (bands, width)
        return [count[:, None] * each for count, each in zip(counts, self.projections, strict=True)]

    def chosen(self) -> tuple[int, ...]:
        """The widths of the largest weights, as their product, that are within the budget.

        The paper has no budget and takes the largest of each.
        """
        weights = self.choice.detach().log_softmax(dim=1).tolist()
        best: tuple[float, tuple[int, ...]] = (float("-inf"), (1,) * len(BANDS))
        for places in itertools.product(range(len(self.widths)), repeat=len(BANDS)):
            widths = tuple(self.widths[place] for place in places)
            if numbers_of(widths, "autodim") <= self.mean_width:
                gain = sum(row[place] for row, place in zip(weights, places, strict=True))
                best = max(best, (gain, widths))
        return best[1]


def candidate_widths(width: int, mean: float) -> tuple[int, ...]:
    """From a quarter of the mean width to eight times as much, doubling."""
    wanted = {max(1, min(width, int(mean * 2.0**step))) for step in range(-2, 4)}
    return tuple(sorted(wanted))
