"""ItemTable: rows of the vocabulary to vectors, in PyTorch and as nodes of a graph. Leaf."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

if TYPE_CHECKING:
    from models.graph import GraphBuilder

Array = np.ndarray[Any, Any]


class ItemTable(nn.Module, ABC):
    """What stands where every model looks an item up.

    `rows` are those of the vocabulary, the shared rows of unknown items last: `fallback` of them.
    """

    def __init__(self, rows: int, width: int, fallback: int) -> None:
        super().__init__()
        self.rows, self.width, self.fallback = rows, width, fallback

    @abstractmethod
    def forward(self, rows: Tensor) -> Tensor:
        """Vectors of rows, int64 of any shape (…): (…, width) float32."""

    @abstractmethod
    def write(self, g: GraphBuilder, rows: str) -> str:
        """The same as nodes of a graph."""

    @abstractmethod
    def fit(self, wanted: Tensor, weight: Tensor) -> None:
        """Comes as close as it can to the vectors (rows, width), each as important as its weight.

        `weight` is (rows,), positive: how often an item is met.
        """

    def settle(self, users: Array, items: Array, is_liked: Array) -> None:
        """Takes from the training events what its layout hangs on, before `fit`.

        Of every event, its user and its item, int64, and whether it was liked, bool: (events,).
        """


def numbers(tensor: Tensor) -> Array:
    """The numbers of a parameter, not copied."""
    return tensor.detach().numpy()


def shared_mean(places: Tensor, values: Tensor, weight: Tensor, count: int) -> Tensor:
    """Weighted means of the values (N, columns) that share a place (N,): (count, columns)."""
    sums = values.new_zeros(count, values.shape[1]).index_add_(0, places, values * weight[:, None])
    total = weight.new_zeros(count).index_add_(0, places, weight)
    return sums / total.clamp(min=1e-6)[:, None]
