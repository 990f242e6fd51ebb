"""What an item is by who met it: items of the same users are alike, whatever was said of them.

Labels say little of an item that few have met. Who met it, and how many, is known better, and says
where its factors and its mean label are to be expected (docs/numbers.md): the spectral vectors of
the graph of users and items, found by subspace iteration, so that no matrix of pairs is made.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

VECTORS = 24
#: More directions than are kept, and rounds, so that those kept are right.
SPARE, ROUNDS = 8, 8
#: In standard deviations: an item of few users may lie far out by chance.
FARTHEST = 3.0
#: As if the line through all items had this many more items at 0, and every item this many events
#: before it counts half.
RIDGE, HALF_KNOWN_EVENTS = 20.0, 20.0


def exposure_vectors(users: Array, items: Array, n_users: int, n_items: int, seed: int) -> Array:
    """(n_items, up to 2 + VECTORS): one, the log of how often it was met, then vectors."""
    met = np.bincount(items, minlength=n_items)
    by_user = 1 / np.sqrt(np.maximum(np.bincount(users, minlength=n_users), 1))
    by_item = 1 / np.sqrt(np.maximum(met, 1))
    trivial = np.sqrt(met / max(1, len(items)))  # says nothing: every item is met by its users

    def spread(columns: Array) -> Array:
        """To the users of each item, and back from them: (n_items, columns)."""
        spread = np.empty_like(columns)
        for place, column in enumerate((columns * by_item[:, None]).T):
            heard = np.bincount(users, column[items], n_users) * by_user**2
            spread[:, place] = np.bincount(items, heard[users], n_items) * by_item
        return spread - np.outer(trivial, trivial @ spread)

    n_vectors = min(VECTORS, n_items, n_users)
    shape = n_items, min(n_items, n_vectors + SPARE)
    found = np.random.default_rng(seed).normal(size=shape)
    for _ in range(ROUNDS):
        found, _ = np.linalg.qr(spread(found))
    _, turn = np.linalg.eigh(found.T @ spread(found))
    vectors = (found @ turn[:, ::-1][:, :n_vectors]) * by_item[:, None] * (met > 0)[:, None]
    scale = vectors.std(axis=0)
    vectors = np.divide(vectors, scale, out=np.zeros_like(vectors), where=scale > 1e-9)
    often = np.log(np.maximum(met, 1))
    columns = [np.ones(n_items), often - often.mean(), *vectors.T]
    return np.asarray(np.clip(np.stack(columns, axis=1), -FARTHEST, FARTHEST))


def foretold(about: Array, values: Array, met: Array) -> Array:
    """`values` (items, columns) as a line in `about` (items, vectors) says: the same shape.

    Items met more often have more to say in the regression; ridge where all say little.
    """
    weighted = about * (met / (met + HALF_KNOWN_EVENTS))[:, None]
    normal = weighted.T @ about + RIDGE * np.eye(about.shape[1])
    return np.asarray(about @ np.linalg.solve(normal, weighted.T @ values))
