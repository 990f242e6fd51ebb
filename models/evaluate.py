"""Evaluation as the service is used: one request per user at the split, by position."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.events import UNKNOWN, EventTable
from models.metrics import auc, gauc, ndcg

Array = np.ndarray[Any, Any]
Metrics = dict[str, float | None]


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """One user's request: rows of the table before the split, and the held-out rows after it.

    `candidates`, item ids, are asked about in place of the held-out events.
    """

    user: int
    history: slice
    targets: slice
    timestamp: int
    candidates: list[str] | None = None


def questions(table: EventTable, holdout: float) -> Iterator[Question]:
    """One request per user who has a holdout, as of the first held-out event's time."""
    starts = table.holdout_start(holdout)
    for user in np.flatnonzero(starts < table.counts):
        first, last = int(table.offsets[user]), int(table.offsets[user + 1])
        split = first + int(starts[user])
        timestamp = int(table.timestamps[split])
        yield Question(int(user), slice(first, split), slice(split, last), timestamp)


def measure(
    table: EventTable,
    holdout: float,
    score: Callable[[Question], Array],
    advance: Callable[[int, int], None] = lambda done, of: None,
) -> dict[str, Metrics]:
    """AUC (pooled), GAUC (by user, weighted by candidates) and NDCG@10 of each task's known labels.

    `score` gives the probabilities of a question's targets, (targets, tasks).
    """
    asked = list(questions(table, holdout))
    if not asked:
        return {}
    scores = []
    for done, question in enumerate(asked, 1):
        scores.append(score(question))
        advance(done, len(asked))
    labels = [table.labels[question.targets] for question in asked]
    users = [np.full(len(found), q.user) for q, found in zip(asked, labels, strict=True)]
    return {
        name: _measured(
            *(np.concatenate(part) for part in (_of(scores, task), _of(labels, task), users))
        )
        for task, name in enumerate(table.tasks)
    }


def _of(parts: list[Array], task: int) -> list[Array]:
    return [part[:, task] for part in parts]


def _measured(scores: Array, labels: Array, users: Array) -> Metrics:
    known = labels != UNKNOWN
    scores, labels, users = scores[known], labels[known], users[known]
    return {
        "auc": rounded(auc(scores, labels)),
        "gauc": rounded(gauc(scores, labels, users)),
        "ndcg@10": rounded(ndcg(scores, labels, users)),
        "targets": len(labels),
    }


def rounded(value: float) -> float | None:
    """JSON has no word for what is undefined where no group has both labels."""
    return round(value, 6) if math.isfinite(value) else None
