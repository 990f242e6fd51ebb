"""What ranks a catalogue without attention, from positives alone: popularity, and factors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from models.baselines import Array, Baseline, Groups
from models.evaluate import Question
from models.events import EventTable


@dataclass(frozen=True, slots=True, eq=False)
class Popularity:
    """How often an item occurs."""

    counts: Array  # (items,)

    def scores(self, users: Array, items: Array) -> Array:
        return np.asarray(self.counts[items])


@dataclass(frozen=True, slots=True, eq=False)
class ImplicitFactorisation:
    """Alternating least squares of 1 where there was an event and, weakly, of 0 everywhere.

    Hu, Koren and Volinsky (ICDM 2008), in the form of Rendle et al. (RecSys 2022).
    """

    user_factors: Array  # (users, factors)
    item_factors: Array  # (items, factors)

    @classmethod
    def fit(
        cls,
        users: Array,
        items: Array,
        n_users: int,
        n_items: int,
        *,
        factors: int = 64,
        unseen: float = 0.05,
        ridge: float = 3.0,
        sweeps: int = 6,
        seed: int = 0,
    ) -> ImplicitFactorisation:
        by_user, by_item = Groups.of(users, n_users), Groups.of(items, n_items)
        item_factors = np.random.default_rng(seed).normal(0, factors**-0.5, (n_items, factors))
        user_factors = np.zeros((n_users, factors))
        ones, least = np.ones(len(users)), ridge * np.eye(factors)
        for _ in range(sweeps):
            base = least + unseen * item_factors.T @ item_factors
            user_factors = by_user.regress(ones, item_factors, items, base)
            base = least + unseen * user_factors.T @ user_factors
            item_factors = by_item.regress(ones, user_factors, users, base)
        return cls(user_factors, item_factors)

    def scores(self, users: Array, items: Array) -> Array:
        product = np.einsum("nf,nf->n", self.user_factors[users], self.item_factors[items])
        return np.asarray(product)


def fit_positives(table: EventTable, holdout: float, *, seed: int = 0) -> dict[str, Baseline]:
    """Both, from every event that is not held out."""
    seen = ~table.is_held_out(holdout)
    users, items = table.users[seen], table.items[seen]
    n_users, n_items = len(table.user_ids), len(table.item_ids)
    return {
        "popularity": Popularity(np.bincount(items, minlength=n_items)),
        "implicit matrix factorisation": ImplicitFactorisation.fit(
            users, items, n_users, n_items, seed=seed
        ),
    }


def scorer(table: EventTable, baseline: Baseline) -> Callable[[Question], Array]:
    """(candidates, 1) of a question about the catalogue."""
    rows = {item_id: row for row, item_id in enumerate(table.item_ids)}

    def score(question: Question) -> Array:
        items = np.array([rows[item_id] for item_id in question.candidates or ()], np.int64)
        return baseline.scores(np.full(len(items), question.user), items)[:, None]

    return score
