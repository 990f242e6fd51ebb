"""How high held-out items rank in the whole catalogue that their user has not seen.

No sampled metrics: they can put models in another order (Krichene and Rendle, KDD 2020).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import xxhash

from models.evaluate import Array, Metrics, Question, questions
from models.events import EventTable

CUT = 10
NAMES = (f"hr@{CUT}", f"ndcg@{CUT}", "mrr")


def measure_catalogue(
    table: EventTable,
    holdout: float,
    catalogue: list[str],
    score: Callable[[Question], Array],
    *,
    users: int | None = None,
    advance: Callable[[int, int], None] = lambda done, of: None,
) -> dict[str, Metrics]:
    """HR@10, NDCG@10 and MRR of each task's held-out positives, each among all unseen items.

    `catalogue` names the items of the model, and `score` gives the probabilities of a question's
    candidates. A held-out item that the history holds already is passed over; the user's other
    held-out positives do not count against it. Of equal scores half come first. With `users`,
    only that many of them are asked about, picked by a hash of their ids.
    """
    asked = _picked(table, list(questions(table, holdout)), users)
    rows = {item_id: row for row, item_id in enumerate(catalogue)}
    row_of = np.array([rows.get(item_id, -1) for item_id in table.item_ids])  # (items,)
    names = np.array(catalogue, object)
    ranks: list[list[float]] = [[] for _ in table.tasks]
    for done, question in enumerate(asked, 1):
        seen = table.items[question.history]
        targets, first = np.unique(table.items[question.targets], return_index=True)
        labels = table.labels[question.targets][first]  # (targets, tasks)
        is_new = ~np.isin(targets, seen) & (labels == 1).any(axis=1)
        targets, labels = targets[is_new], labels[is_new]
        if len(targets):
            unseen = np.ones(len(names), bool)
            unseen[row_of[seen][row_of[seen] >= 0]] = False
            unseen[row_of[targets][row_of[targets] >= 0]] = False
            others = names[unseen].tolist()
            candidates = [*(table.item_ids[item] for item in targets), *others]
            scores = score(replace(question, candidates=candidates))
            for task, found in enumerate(ranks):
                own, rest = scores[: len(targets), task], scores[len(targets) :, task]
                found.extend(_ranks(own[labels[:, task] == 1], rest))
        advance(done, len(asked))
    return {
        name: _measured(found, len(asked)) for name, found in zip(table.tasks, ranks, strict=True)
    }


def _picked(table: EventTable, asked: list[Question], users: int | None) -> list[Question]:
    if users is None or users >= len(asked):
        return asked
    return sorted(asked, key=lambda q: xxhash.xxh64_intdigest(table.user_ids[q.user].encode()))[
        :users
    ]


def _ranks(own: Array, others: Array) -> list[float]:
    """Each one's place among the others, from 1."""
    above = (others[None, :] > own[:, None]).sum(axis=1)
    equal = (others[None, :] == own[:, None]).sum(axis=1)
    found: list[float] = (1 + above + equal / 2).tolist()
    return found


def _measured(ranks: list[float], users: int) -> dict[str, Any]:
    places = np.array(ranks)
    is_hit = places <= CUT
    if not len(places):
        return {**dict.fromkeys(NAMES), "targets": 0, "users": users}
    figures = (
        is_hit.mean(),
        np.where(is_hit, 1 / np.log2(1 + places), 0).mean(),
        (1 / places).mean(),
    )
    rounded = {name: round(float(value), 6) for name, value in zip(NAMES, figures, strict=True)}
    return {**rounded, "targets": len(places), "users": users}
