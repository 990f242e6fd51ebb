"""The search for widths: AutoDim's two levels, each learned from events of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import cast

import numpy as np
import torch

from models.embeddings.searching import Searching
from models.events import EventTable
from models.families import MODELS
from models.sequences import Batch
from models.spec import Spec
from models.train import Progress, Recipe, Trainer

SEARCH_EPOCHS = 3
RATE = 0.02  # of the widths' weights


def searched(
    table: EventTable,
    spec: Spec,
    recipe: Recipe,
    *,
    seed: int = 0,
    categories: np.ndarray[tuple[int], np.dtype[np.int64]] | None = None,
    on_step: Callable[[Progress], None] = lambda _: None,
) -> Spec:
    """The spec with the widths that a short training finds; any other spec as it is.

    Training with them starts anew, as in the paper.
    """
    if spec.embedding != "autodim" or spec.embedding_widths:
        return spec
    epochs = min(SEARCH_EPOCHS, recipe.epochs or SEARCH_EPOCHS)
    shorter = dataclasses.replace(recipe, epochs=epochs)
    searcher = _Searcher(table, spec, shorter, seed, MODELS[spec.family], categories)
    searcher.run(on_step)
    widths = cast("Searching", searcher.model.embedding).chosen()
    return dataclasses.replace(spec, embedding_widths=widths)


class _Searcher(Trainer):
    """Vectors learn from the training users, and what widths are worth from the others."""

    def _learn(self, batch: Batch) -> float:
        loss = super()._learn(batch)
        if self.validation:
            self._weigh()
        return loss

    def _weigh(self) -> None:
        """One step of the weights; of the vectors' answer to it, the paper's first order."""
        batch, asked = self.validation[self.step % len(self.validation)]
        choice = cast("Searching", self.model.embedding).choice
        choice.requires_grad = True
        items, others = torch.from_numpy(batch.items), torch.from_numpy(asked.others)
        loss, known = self._loss(self.model, batch, asked, items, others)
        (gradient,) = torch.autograd.grad(loss / max(1, known), choice)
        choice.requires_grad = False
        # By its size, because a loss that many items share moves little.
        with torch.no_grad():
            choice.sub_(RATE * gradient / (gradient.abs().mean() + 1e-12))
