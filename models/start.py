"""Where training starts: from what a factorisation of the same events already knows.

Attention trained from scratch on real logs overfits before its item biases have converged, and
ends below plain matrix factorisation (docs/numbers.md). So the embeddings start from the item
factors, the biases from the items' mean labels, and the first layer from the factorisation's own
answer: the match between a candidate and the items of the history, weighted by their residuals.
What labels do not say of an item, those who met it do (`models/exposures.py`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from models.attention import TargetAttention
from models.baselines import factorise
from models.events import UNKNOWN, EventTable
from models.exposures import exposure_vectors, foretold
from models.negatives import with_negatives
from models.ranking_model import RankingModel

Array = np.ndarray[Any, Any]

#: As if every item had this many more events with the label that is expected of it.
PRIOR_EVENTS = 5.0
LEAST_SURE = 0.2
#: As if every history had this many more events that say nothing.
NULL_EVENTS = 40.0
MOST_FACTORS = 16
IDENTITY_SCALE = 0.1
MATCH = (0.25, 0.5)
CARRY = 3.0
FORESIGHT = 2.0
LEAN = 5.0


class Fitted(NamedTuple):
    """What events say of items."""

    prior: Array  # (rows, tasks) within (0, 1): the mean label that its company lets expect
    factors: Array  # (items, factors) of the primary task, centred and scaled to one


def start(model: RankingModel, table: EventTable, seed: int, *, drawn: int = 0) -> Fitted:
    """Sets every weight of `model` from the events in `table`; the same for the same seed.

    For a log of positives, `drawn` negatives of every event stand beside it; nobody met those.
    """
    real, table = table, with_negatives(table, drawn, seed)
    generator = torch.Generator().manual_seed(seed)
    _randomise(model, generator)
    fitted = fit_items(table, len(model.expectation), model.spec.width // 2, seed, met=real)
    expectation, factors = _expectation(table, fitted.prior), fitted.factors
    with torch.no_grad():
        model.expectation.copy_(torch.from_numpy(expectation))
        model.item_bias.weight.copy_(torch.from_numpy(np.log(expectation / (1 - expectation))))
        # The other half tells items apart where factors do not: order and identity need it.
        wanted = torch.empty(model.embedding.rows, model.embedding.width)
        wanted.normal_(0, IDENTITY_SCALE, generator=generator)
        n_items, n_factors = factors.shape
        wanted[:, :n_factors] = 0
        wanted[:n_items, :n_factors] = torch.from_numpy(factors).float()
        model.embedding.settle(table.users, table.items, table.labels[:, 0] == 1)
        met = np.bincount(table.items, minlength=len(wanted)) + 1.0
        model.embedding.fit(wanted, torch.from_numpy(met).float())
        _match_by_factors(model, n_factors)
        model.begin(n_factors, generator)
    return fitted


def fit_items(
    table: EventTable, rows: int, most: int, seed: int, *, met: EventTable | None = None
) -> Fitted:
    """At most `most` factors, and a prior for each of `rows` items; who met an item, `met` says."""
    met = met or table
    n_users, n_items = len(table.user_ids), len(table.item_ids)
    about = exposure_vectors(met.users, met.items, n_users, n_items, seed)
    prior = np.stack([_prior(table, task, rows, about) for task in range(len(table.tasks))], 1)
    return Fitted(prior, _factors(table, most, seed, about))


def _randomise(model: RankingModel, generator: torch.Generator) -> None:
    with torch.no_grad():
        for layer in model.layers:
            for linear in (m for m in layer.modules() if isinstance(m, nn.Linear)):
                _normal(linear.weight, 0.7 * linear.in_features**-0.5, generator)
                if linear.bias is not None:
                    linear.bias.zero_()
            for linear in layer.additions:
                linear.weight.mul_(0.3)
            if isinstance(layer, TargetAttention):
                _normal(layer.null_key, 0.1, generator)


def _normal(weight: Tensor, scale: float, generator: torch.Generator) -> None:
    weight.normal_(0, scale, generator=generator)


def _match_by_factors(model: RankingModel, n_factors: int) -> None:
    """Layers average residuals, alone and times embeddings; the read-out adds and matches them.

    The first layer hears how this user departs from the items' priors, and its records carry
    that on; the second expects it, and hears what is left: the factorisation's own estimate of a
    user it has never seen. Where layers attend to the events themselves, there are no records to
    carry it: the first layer alone knows, and the others start from nothing.
    """
    width, tasks = model.spec.width, len(model.spec.tasks)
    if not model.layers:
        return
    for depth, layer in enumerate(model.layers[: 2 if model.spec.kind.is_recursive else 1]):
        layer.weigh_evenly(NULL_EVENTS)
        layer.value.weight[:, :width] *= 0.1
        layer.value.weight[:, width:] = 0
        for task in range(tasks):
            layer.value.weight[:, (1 + task) * width : (2 + task) * width] += torch.eye(width)
            model.match[depth, :n_factors, task] = MATCH[depth]
    for task in range(tasks):
        last = width - 1 - task
        if last < n_factors:
            continue
        # The user's own lean: the mean residual, in a column of its own.
        model.layers[0].value.weight[last] = 0
        model.layers[0].value.weight[last, (1 + tasks) * width + task] = 1
        model.layers[0].out.weight[last] = 0
        model.layers[0].out.weight[last, last] = CARRY
        model.lean[0, last, task] = LEAN
        for layer in model.layers[1:] if model.spec.kind.is_recursive else ():
            layer.foresight[last, task] = FORESIGHT


def _prior(table: EventTable, task: int, rows: int, about: Array) -> Array:
    """What each item's company says of its mean label: (rows,) within (0, 1)."""
    count, likes = _counted(table, task, rows)
    mean = (likes.sum() + 1.0) / (count.sum() + 2.0)
    own = (likes - count * mean) / np.maximum(count, 1)
    prior = np.full(rows, mean)
    n_items = len(about)
    prior[:n_items] += foretold(about, own[:n_items, None], count[:n_items])[:, 0]
    # A line has no ends; a prior is never sure.
    return np.asarray(np.clip(prior, LEAST_SURE * mean, 1 - LEAST_SURE * (1 - mean)))


def _counted(table: EventTable, task: int, rows: int) -> tuple[Array, Array]:
    """Known labels of each item, and those of them that are 1: (rows,) each."""
    known = table.labels[:, task] != UNKNOWN
    items, labels = table.items[known], table.labels[known, task]
    return np.bincount(items, minlength=rows), np.bincount(items, labels, minlength=rows)


def _expectation(table: EventTable, prior: Array) -> Array:
    """Mean label of each item, shrunk to its prior: (rows, tasks) float32 within (0, 1)."""
    counted = [_counted(table, task, len(prior)) for task in range(len(table.tasks))]
    count, likes = np.stack(counted, axis=-1)  # (rows, tasks) each
    return np.asarray((likes + PRIOR_EVENTS * prior) / (count + PRIOR_EVENTS), np.float32)


def _factors(table: EventTable, most: int, seed: int, about: Array) -> Array:
    """Item factors of the primary task, (items, factors), centred and scaled to one."""
    known = table.labels[:, 0] != UNKNOWN
    n_factors = min(most, MOST_FACTORS)
    if not n_factors or not known.any():
        return np.zeros((len(table.item_ids), 0))
    factors, _ = factorise(
        table.users[known],
        table.items[known],
        table.labels[known, 0],
        len(table.user_ids),
        len(table.item_ids),
        factors=n_factors,
        seed=seed,
        about=about,
    )
    factors = factors - np.bincount(table.items, minlength=len(factors)) @ factors / len(table)
    scale = float(np.sqrt(np.mean(factors**2)))
    return factors / scale if scale > 1e-6 else np.zeros_like(factors)
