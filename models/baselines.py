"""What a score is worth without attention: item bias, user and item bias, matrix factorisation.

All three fit 0/1 labels by least squares with ridge penalties, in closed form alternately, so
they need numpy alone and give the same answer every time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from models.events import UNKNOWN, EventTable
from models.exposures import exposure_vectors, foretold
from models.metrics import auc, gauc, ndcg

Array = np.ndarray[Any, Any]

_BLOCK = 4_096


class Baseline(Protocol):
    """Something that learns from (user, item, label) and scores (user, item)."""

    def scores(self, users: Array, items: Array) -> Array: ...


@dataclass(frozen=True, slots=True, eq=False)
class ItemBias:
    """How much better or worse than the mean an item does; shrunk where little is known."""

    mean: float
    items: Array  # (items,)

    @classmethod
    def fit(cls, items: Array, labels: Array, n_items: int, *, ridge: float = 3.0) -> ItemBias:
        mean = float(labels.mean()) if len(labels) else 0.0
        return cls(mean, _shrunk(labels - mean, items, n_items, ridge))

    def scores(self, users: Array, items: Array) -> Array:
        return np.asarray(self.mean + self.items[items])


@dataclass(frozen=True, slots=True, eq=False)
class UserItemBias:
    """One number for each user and one for each item, fitted together."""

    mean: float
    users: Array  # (users,)
    items: Array  # (items,)

    @classmethod
    def fit(
        cls,
        users: Array,
        items: Array,
        labels: Array,
        n_users: int,
        n_items: int,
        *,
        user_ridge: float = 3.0,
        item_ridge: float = 3.0,
        sweeps: int = 10,
    ) -> UserItemBias:
        mean = float(labels.mean()) if len(labels) else 0.0
        user, item = np.zeros(n_users), np.zeros(n_items)
        for _ in range(sweeps):
            item = _shrunk(labels - mean - user[users], items, n_items, item_ridge)
            user = _shrunk(labels - mean - item[items], users, n_users, user_ridge)
        return cls(mean, user, item)

    def scores(self, users: Array, items: Array) -> Array:
        return np.asarray(self.mean + self.users[users] + self.items[items])


@dataclass(frozen=True, slots=True, eq=False)
class MatrixFactorisation:
    """Biases, and a product of a user's and an item's factors for what the biases leave over."""

    mean: float
    user_bias: Array  # (users,)
    item_bias: Array  # (items,)
    user_factors: Array  # (users, factors)
    item_factors: Array  # (items, factors)

    @classmethod
    def fit(
        cls,
        users: Array,
        items: Array,
        labels: Array,
        n_users: int,
        n_items: int,
        *,
        factors: int = 32,
        ridge: float = 8.0,
        bias_ridge: float = 3.0,
        sweeps: int = 10,
        seed: int = 0,
        about: Array | None = None,
    ) -> MatrixFactorisation:
        """With `about` (items, vectors), an item is expected where a line through them says."""
        bias = UserItemBias.fit(
            users, items, labels, n_users, n_items, user_ridge=bias_ridge, item_ridge=bias_ridge
        )
        mean, user_bias, item_bias = bias.mean, bias.users, bias.items
        item_factors = np.random.default_rng(seed).normal(0, 0.1, (n_items, factors))
        user_factors = np.zeros((n_users, factors))
        by_user, by_item = Groups.of(users, n_users), Groups.of(items, n_items)
        least = ridge * np.eye(factors)
        met = np.bincount(items, minlength=n_items)
        prior, bias_prior = np.zeros_like(item_factors), np.zeros(n_items)
        for _ in range(sweeps):
            left = labels - mean - user_bias[users] - item_bias[items]
            user_factors = by_user.regress(left, item_factors, items, least)
            left -= np.einsum("nf,nf->n", user_factors[users], prior[items])
            item_factors = prior + by_item.regress(left, user_factors, users, least)
            left = labels - mean - np.einsum("nf,nf->n", user_factors[users], item_factors[items])
            unforeseen = left - user_bias[users] - bias_prior[items]
            item_bias = bias_prior + _shrunk(unforeseen, items, n_items, bias_ridge)
            user_bias = _shrunk(left - item_bias[items], users, n_users, bias_ridge)
            if about is not None:
                prior = foretold(about, item_factors, met)
                bias_prior = foretold(about, item_bias[:, None], met)[:, 0]
        return cls(mean, user_bias, item_bias, user_factors, item_factors)

    def scores(self, users: Array, items: Array) -> Array:
        product = np.einsum("nf,nf->n", self.user_factors[users], self.item_factors[items])
        return np.asarray(self.mean + self.user_bias[users] + self.item_bias[items] + product)


def factorise(
    users: Array,
    items: Array,
    labels: Array,
    n_users: int,
    n_items: int,
    factors: int = 32,
    *,
    ridge: float = 8.0,
    sweeps: int = 10,
    seed: int = 0,
    about: Array | None = None,
) -> tuple[Array, Array]:
    """(item factors, item biases) to start a model's item embeddings from.

    With `about` (items, vectors), what is known of an item beside its labels counts, too.

    Rows whose label is unknown are passed over. An item without any label, and every item where
    the labels say nothing, gets zeros; nothing here is ever infinite or not a number.
    """
    known = labels != UNKNOWN
    fitted = MatrixFactorisation.fit(
        users[known],
        items[known],
        labels[known].astype(np.float64),
        n_users,
        n_items,
        factors=factors,
        ridge=ridge,
        sweeps=sweeps,
        seed=seed,
        about=about,
    )
    seen = np.bincount(items[known], minlength=n_items) > 0
    return np.where(seen[:, None], fitted.item_factors, 0.0), fitted.item_bias


def evaluate_baselines(
    table: EventTable, holdout: float = 0.1, *, task: int = 0, factors: int = 32, seed: int = 0
) -> dict[str, dict[str, float]]:
    """AUC, GAUC and NDCG@10 of each baseline on the held-out events, fitted on all the others."""
    held_out, known = table.is_held_out(holdout), table.labels[:, task] != UNKNOWN
    users, labels = table.users, table.labels[:, task]
    train, test = known & ~held_out, known & held_out
    n_users, n_items = len(table.user_ids), len(table.item_ids)
    seen = (users[train], table.items[train], labels[train].astype(np.float64))
    about = exposure_vectors(users[~held_out], table.items[~held_out], n_users, n_items, seed)
    fitted: dict[str, Baseline] = {
        "item bias": ItemBias.fit(*seen[1:], n_items),
        "user and item bias": UserItemBias.fit(*seen, n_users, n_items),
        "matrix factorisation": MatrixFactorisation.fit(
            *seen, n_users, n_items, factors=factors, seed=seed
        ),
        "matrix factorisation, told who met an item": MatrixFactorisation.fit(
            *seen, n_users, n_items, factors=factors, seed=seed, about=about
        ),
    }
    results = {}
    for name, baseline in fitted.items():
        scores = baseline.scores(users[test], table.items[test])
        results[name] = {
            "auc": auc(scores, labels[test]),
            "gauc": gauc(scores, labels[test], users[test]),
            "ndcg@10": ndcg(scores, labels[test], users[test]),
        }
    return results


@dataclass(frozen=True, slots=True, eq=False)
class Groups:
    """Events sorted by one of their two sides, so that each group's are a slice."""

    order: Array  # (events,)
    bounds: Array  # (groups + 1,)

    @classmethod
    def of(cls, groups: Array, n_groups: int) -> Groups:
        counts = np.bincount(groups, minlength=n_groups)
        order = np.argsort(groups, kind="stable")
        return cls(order, np.concatenate(([0], np.cumsum(counts))))

    def regress(self, values: Array, table: Array, rows: Array, base: Array) -> Array:
        """Each group's regression of its values on its rows of a table: (groups, factors).

        `base` (factors, factors) is added to every normal matrix: a ridge, to begin with.
        """
        n_groups, factors = len(self.bounds) - 1, table.shape[1]
        solved = np.zeros((n_groups, factors))
        values, rows = values[self.order], rows[self.order]
        # In blocks: the normal matrices of a million groups at once would not fit in memory.
        for first in range(0, n_groups, _BLOCK):
            block = range(first, min(first + _BLOCK, n_groups))
            normal = np.tile(base, (len(block), 1, 1))
            right = np.zeros((len(block), factors, 1))
            for place, group in enumerate(block):
                events = slice(self.bounds[group], self.bounds[group + 1])
                part = table[rows[events]]
                normal[place] += part.T @ part
                right[place, :, 0] = values[events] @ part
            solved[first : first + len(block)] = np.linalg.solve(normal, right)[..., 0]
        return solved


def _shrunk(values: Array, groups: Array, n_groups: int, ridge: float) -> Array:
    """The mean of each group's values, pulled to 0 as if by `ridge` more zeros."""
    sums = np.bincount(groups, values, n_groups)
    return np.asarray(sums / (np.bincount(groups, minlength=n_groups) + ridge))
