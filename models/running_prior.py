"""What an item gets from anyone, counted while the stream goes by: never from a label to come."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from models.events import UNKNOWN
from models.ranking_model import RankingModel
from models.start import PRIOR_EVENTS

#: As how many events the mean counts that a bundle brings along; it does not say of how many it is.
WARM_EVENTS = 50.0


class RunningPrior:
    """Mean label of each item so far, shrunk towards where it started.

    The item biases move along with it, so that what is learned of them is what the mean misses.
    """

    def __init__(self, model: RankingModel, known_items: int = 0) -> None:
        self.base = model.expectation.double()  # (rows, tasks): where each item starts
        # As if so many events had said so.
        self.weight = torch.full_like(self.base, PRIOR_EVENTS)
        self.weight[:known_items] = WARM_EVENTS
        self.counts = torch.zeros_like(self.base)
        self.likes = torch.zeros_like(self.base)

    def observe(self, items: Tensor, labels: Tensor) -> None:
        """items (T,) rows, labels (T, tasks)."""
        known = labels != UNKNOWN
        self.counts.index_add_(0, items, known.double())
        self.likes.index_add_(0, items, torch.where(known, labels, 0).double())

    @torch.no_grad()
    def apply(self, models: Sequence[RankingModel]) -> None:
        """Sets what the models expect."""
        expected = (self.likes + self.weight * self.base) / (self.counts + self.weight)
        for model in models:
            moved = torch.logit(expected) - torch.logit(model.expectation.double())
            model.item_bias.weight += moved.float()
            model.expectation.copy_(expected)
