"""What training starts from, kept up while the stream goes by: never from a label to come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.events import UNKNOWN, EventTable
from models.ranking_model import RankingModel
from models.start import PRIOR_EVENTS, Fitted, fit_items

Array = np.ndarray[Any, Any]

#: As how many events the mean counts that a bundle brings along; it does not say of how many it is.
WARM_EVENTS = 50.0


class RunningStart:
    """Mean label of each item so far, shrunk towards its prior, and the items' factors.

    The item biases move along with the means, and the embeddings with the factors, so that what is
    learned of them is what a fit misses.
    """

    def __init__(
        self, model: RankingModel, fitted: Fitted | None = None, *, known_items: int = 0
    ) -> None:
        """After `start`, what it fitted; after a bundle, that it knew the first `known_items`."""
        base = model.expectation.double() if fitted is None else torch.from_numpy(fitted.prior)
        self.base = base.clone()  # (rows, tasks): where each item starts
        # As if so many events had said so.
        self.weight = torch.full_like(self.base, PRIOR_EVENTS)
        self.weight[:known_items] = WARM_EVENTS
        self.counts = torch.zeros_like(self.base)
        self.likes = torch.zeros_like(self.base)
        factors = np.zeros((0, 0)) if fitted is None else fitted.factors
        self.factors = torch.from_numpy(factors)  # (items, factors), none after a bundle

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

    @torch.no_grad()
    def refit(self, models: Sequence[RankingModel], so_far: EventTable, seed: int) -> None:
        """Fits priors and factors to all events so far; what was learned beside them stays.

        A factorisation may come out turned any way round, so it is turned to lie as the last did.
        """
        items, most = self.factors.shape
        fitted = fit_items(so_far, len(self.base), most, seed)
        self.base.copy_(torch.from_numpy(fitted.prior))
        met = np.bincount(so_far.items, minlength=items)
        factors = torch.from_numpy(turned(fitted.factors, self.factors.numpy(), met))
        moved = (factors - self.factors).float()
        self.factors = factors
        for model in models:
            table = model.embedding
            wanted = table(torch.arange(table.rows))
            wanted[:items, :most] += moved
            weight = np.pad(met, (0, table.rows - items)) + 1.0
            table.fit(wanted, torch.from_numpy(weight).float())
        self.apply(models)


def turned(found: Array, wanted: Array, weight: Array) -> Array:
    """`found` (items, factors), rotated or mirrored to lie closest to `wanted` (Procrustes)."""
    left, _, right = np.linalg.svd(found.T @ (wanted * weight[:, None]))
    return np.asarray(found @ (left @ right))
