"""How far a stage agrees with the ranking model, asked once per user at the split."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from models.evaluate import Question, questions
from models.events import EventTable
from models.lessons import Past, windows
from models.marm import Marm
from models.prerank import Prerank
from models.ranking_model import Scorer
from models.reader import History
from models.retrieval import Retrieval
from models.teacher import Teacher, decoded

Array = np.ndarray[Any, Any]
Advance = Callable[[int, int], None]

#: Users that are asked.
MOST_USERS = 200
#: What the ranking model puts first, and how many the stage may name: retrieval, then pre-ranking.
BEST, RETRIEVED = 10, 300
TOP, KEPT, GENERATED = 100, 500, 10_000
GENERATED_USERS = 30


@torch.no_grad()
def retrieval_agreement(
    model: Retrieval, teacher: Teacher, table: EventTable, holdout: float, advance: Advance
) -> dict[str, Any]:
    """Over unseen items: the ranker's ten best among 300 retrieved; later likes among 100."""
    best: list[float] = []
    liked: list[float] = []
    items = np.arange(model.items)
    for question, past in _asked(teacher, table, holdout, MOST_USERS, advance):
        history = windows([past], np.array([len(past.items)]), model.spec.window)
        when = torch.tensor([question.timestamp])
        whose = _row(model, table, question, past)
        found = model.logits(model.user(when, history, whose), model.table)[0].numpy().copy()
        taught = _taught(teacher, items, question.timestamp, past)
        seen = past.items[past.items < model.items]
        found[seen] = taught[seen] = -np.inf
        order = np.argsort(-found, kind="stable")
        top = np.argsort(-taught, kind="stable")[:BEST]
        best.append(float(np.isin(top, order[:RETRIEVED]).mean()))
        later = table.items[question.targets][table.labels[question.targets, 0] == 1]
        later = later[later < model.items]
        if len(later):
            liked.append(float(np.isin(later, order[:TOP]).mean()))
    return {
        f"ranker's top {BEST} in {RETRIEVED}": _mean(best),
        f"held-out likes in {TOP}": _mean(liked),
        "users": len(best),
        "items": model.items,
    }


@torch.no_grad()
def user_vectors(
    model: Retrieval, teacher: Teacher, table: EventTable, holdout: float, advance: Advance
) -> Array:
    """Of some users at their split: (U, width + 1)."""
    found = [
        model.user(
            torch.tensor([question.timestamp]),
            _newest(past, model.spec.window),
            _row(model, table, question, past),
        ).numpy()
        for question, past in _asked(teacher, table, holdout, MOST_USERS, advance)
    ]
    return np.concatenate(found)


@torch.no_grad()
def prerank_agreement(
    model: Prerank,
    ranker: Marm,
    teacher: Teacher,
    table: EventTable,
    holdout: float,
    advance: Advance,
) -> dict[str, Any]:
    """The ranking model's top 100 of 10,000 generated candidates among pre-ranking's top 500.

    A generated candidate is an item between two of the catalogue: a random mixture of their vectors
    and biases, so that ten thousand different ones can be had of any catalogue.
    """
    random = np.random.default_rng(0)
    pairs = random.integers(0, ranker.items, (2, GENERATED))
    share = torch.from_numpy(random.random((GENERATED, 1), np.float32))
    models = [_with_mixtures(each, pairs, share) for each in (model, ranker)]
    candidates = torch.arange(GENERATED)[None] + ranker.embedding.rows
    recalls = []
    for question, past in _asked(teacher, table, holdout, GENERATED_USERS, advance):
        when = torch.tensor([question.timestamp])
        found, taught = (
            each.forward_cached(candidates, when, _newest(past, each.spec.window))[0, :, 0].numpy()
            for each in models
        )
        top = np.argsort(-taught, kind="stable")[:TOP]
        recalls.append(float(np.isin(top, np.argsort(-found, kind="stable")[:KEPT]).mean()))
    return {
        f"ranker's top {TOP} in {KEPT}": _mean(recalls),
        "users": len(recalls),
        "generated candidates": GENERATED,
    }


def _with_mixtures(model: Any, pairs: Array, share: torch.Tensor) -> Scorer:
    mixed: Scorer = copy.deepcopy(model)
    rows = model.embedding.rows
    for name in ("embedding", "item_bias"):
        weight = getattr(model, name)(torch.arange(rows))
        new = share * weight[pairs[0]] + (1 - share) * weight[pairs[1]]
        setattr(mixed, name, nn.Embedding.from_pretrained(torch.cat([weight, new])))
    return mixed


def _asked(
    teacher: Teacher, table: EventTable, holdout: float, most: int, advance: Advance
) -> Iterator[tuple[Question, Past]]:
    """Some users at their split, or at their last event where nothing is held out."""
    found = list(questions(table, holdout or 0.1))
    order = np.random.default_rng(0).permutation(len(found))[:most]
    for done, place in enumerate(order, 1):
        question = found[place]
        span = question.history
        feed = {
            "items": table.items[span][None],
            "timestamps": table.timestamps[span][None],
            "feedback": table.labels[span][None],
        }
        records = decoded(teacher.rows(feed))
        if records is None:
            shape = (1, span.stop - span.start, 0, teacher.spec.width)
            records = np.zeros(shape, np.float32)
        yield (
            question,
            Past(feed["items"][0], feed["timestamps"][0], feed["feedback"][0], records[0]),
        )
        advance(done, len(order))


def _row(model: Retrieval, table: EventTable, question: Question, past: Past) -> torch.Tensor:
    row = model.known_users.row(table.user_ids[question.user], len(past.items))
    return torch.tensor([row])


def _newest(past: Past, window: int) -> History:
    return windows([past], np.array([len(past.items)]), window)


def _taught(teacher: Teacher, candidates: Array, timestamp: int, past: Past) -> Array:
    feed = {
        "items": past.items[None],
        "timestamps": past.timestamps[None],
        "feedback": past.feedback[None],
    }
    rows = teacher.rows(feed)
    return teacher.scores(candidates, timestamp, feed, rows)[:, 0].copy()


def _mean(values: list[float]) -> float | None:
    return round(float(np.mean(values)), 4) if values else None
