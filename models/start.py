"""Where training starts: from what a factorisation of the same events already knows.

Attention trained from scratch on real logs overfits before its item biases have converged, and
ends below plain matrix factorisation (docs/numbers.md). So the embeddings start from the item
factors, the biases from the items' mean labels, and the first layer from the factorisation's own
answer: the match between a candidate and the items of the history, weighted by their residuals.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.baselines import factorise
from models.events import UNKNOWN, EventTable
from models.marm import Marm

Array = np.ndarray[Any, Any]

#: As if every item had this many more events with the mean label.
PRIOR_EVENTS = 5.0
FACTOR_SCALE = 0.3
IDENTITY_SCALE = 0.1
MOST_FACTORS = 32


def start(model: Marm, table: EventTable, seed: int) -> None:
    """Sets every weight of `model` from the events in `table`; the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    _randomise(model, generator)
    expectation = np.stack(
        [_expectation(table, task, len(model.expectation)) for task in range(len(table.tasks))], 1
    )
    factors = _factors(table, model.spec.width // 2, seed)
    with torch.no_grad():
        model.expectation.copy_(torch.from_numpy(expectation))
        model.item_bias.weight.copy_(torch.from_numpy(np.log(expectation / (1 - expectation))))
        # The other half tells items apart where factors do not: order and identity need it.
        model.embedding.weight.normal_(0, IDENTITY_SCALE, generator=generator)
        n_items, n_factors = factors.shape
        model.embedding.weight[:, :n_factors] = 0
        model.embedding.weight[:n_items, :n_factors] = torch.from_numpy(factors).float()
        _match_by_factors(model, n_factors)


def _randomise(model: Marm, generator: torch.Generator) -> None:
    with torch.no_grad():
        for layer in model.layers:
            for linear in (m for m in layer.modules() if isinstance(m, nn.Linear)):
                _normal(linear.weight, 0.7 * linear.in_features**-0.5, generator)
                if linear.bias is not None:
                    linear.bias.zero_()
            layer.out.weight.mul_(0.3)
            layer.contract.weight.mul_(0.3)
            _normal(layer.null_key, 0.1, generator)


def _normal(weight: Tensor, scale: float, generator: torch.Generator) -> None:
    weight.normal_(0, scale, generator=generator)


def _match_by_factors(model: Marm, n_factors: int) -> None:
    """Layer 1 finds residual-weighted embeddings, and the read-out multiplies by the item's."""
    width = model.spec.width
    first = model.layers[0]
    identity = torch.eye(width)
    for task in range(len(model.spec.tasks)):
        first.value.weight[:, (1 + task) * width : (2 + task) * width] += identity
        model.match[0, :n_factors, task] = 1.0


def _expectation(table: EventTable, task: int, rows: int) -> Array:
    """Mean label of each item, shrunk to the mean of all: (rows,) float32 within (0, 1)."""
    known = table.labels[:, task] != UNKNOWN
    items, labels = table.items[known], table.labels[known, task]
    mean = (labels.sum() + 1.0) / (len(labels) + 2.0)
    count = np.bincount(items, minlength=rows)
    likes = np.bincount(items, labels, minlength=rows)
    return ((likes + PRIOR_EVENTS * mean) / (count + PRIOR_EVENTS)).astype(np.float32)


def _factors(table: EventTable, most: int, seed: int) -> Array:
    """Item factors of the primary task, (items, factors), scaled to `FACTOR_SCALE`."""
    known = table.labels[:, 0] != UNKNOWN
    n_factors = min(most, MOST_FACTORS)
    if not n_factors:
        return np.zeros((len(table.item_ids), 0))
    factors, _ = factorise(
        table.users[known],
        table.items[known],
        table.labels[known, 0],
        len(table.user_ids),
        len(table.item_ids),
        factors=n_factors,
        seed=seed,
    )
    scale = float(np.sqrt(np.mean(factors**2)))
    return factors * (FACTOR_SCALE / scale if scale > 1e-6 else 0.0)
