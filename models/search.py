"""The general search unit: which events of a long history a target attends to (SIM, TWIN)."""

from __future__ import annotations

import torch
from torch import Tensor

#: The category of items that have none, and of those the model has not seen.
NO_CATEGORY = 0


def newest(seen: Tensor, most: int | Tensor) -> Tensor:
    """The newest `most` of the events that are seen: bool (..., T) to the same shape."""
    count = seen.flip(-1).cumsum(-1, dtype=torch.int32).flip(-1)  # of those not older
    return seen & (count <= most)


def found_by_category(wanted: Tensor, categories: Tensor, seen: Tensor, most: int) -> Tensor:
    """The `most` events to attend to: those of the target's category first, newest first.

    wanted (B, N) and categories (B, T) int64; seen bool (B, N, T). Where a category has fewer, the
    newest others fill up, so that `most` events are found wherever there are as many.
    """
    same = newest(seen & (wanted[:, :, None] == categories[:, None, :]), most)
    left = most - same.sum(dim=-1, keepdim=True, dtype=torch.int32)
    return same | newest(seen & (wanted[:, :, None] != categories[:, None, :]), left)


def found_by_score(scores: Tensor, seen: Tensor, most: int) -> Tensor:
    """The `most` events of the highest scores (B, N, T) among those that are seen."""
    if scores.shape[-1] <= most:
        return seen
    places = scores.detach().masked_fill(~seen, -torch.inf).topk(most, dim=-1).indices
    return torch.zeros_like(seen).scatter_(-1, places, True) & seen
