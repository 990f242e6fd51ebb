"""Where a stream starts: from a bundle, or from a factorisation of the first events of the log."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from models.bundle import Bundle
from models.events import EventTable
from models.marm import Marm
from models.reference import load_model
from models.running_start import RunningStart
from models.spec import Spec
from models.start import IDENTITY_SCALE, start

Array = np.ndarray[Any, Any]


def cold_start(
    table: EventTable, head: Array, spec: Spec, item_ids: list[str], seed: int
) -> tuple[Marm, RunningStart]:
    """From the events in the mask `head`, which the start has counted then."""
    first = table.take(head)
    model = Marm(spec, len(item_ids))
    running = RunningStart(model, start(model, first, seed))
    running.observe(torch.from_numpy(first.items), torch.from_numpy(first.labels))
    return model, running


def warm_start(bundle: Bundle, item_ids: list[str], seed: int) -> tuple[Marm, RunningStart]:
    """From a bundle's weights; `item_ids` are its own, and new ones behind them.

    A new item starts where items are that nobody knows.
    """
    old = load_model(bundle)
    model = Marm(bundle.spec, len(item_ids))
    known, new = old.items, len(item_ids) - old.items
    generator = torch.Generator().manual_seed(seed)
    weights = old.state_dict()
    for name in ("embedding.weight", "item_bias.weight", "expectation"):
        table = weights[name]
        fallback = table[known:]
        added = fallback.mean(dim=0).expand(new, -1).clone()
        if name == "embedding.weight":
            added += IDENTITY_SCALE * torch.randn(added.shape, generator=generator)
        weights[name] = torch.cat([table[:known], added, fallback])
    model.load_state_dict(weights)
    return model, RunningStart(model, known_items=known)


def joined(bundle: Bundle, item_ids: list[str]) -> list[str]:
    """The bundle's items, and behind them those it does not know."""
    return [*bundle.vocabulary.ids, *(item for item in item_ids if item not in bundle.vocabulary)]
