"""Examiner: one question of an evaluation, put as callers put it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from models.evaluate import Question
from models.events import UNKNOWN, EventTable
from models.spec import Spec
from service.errors import NotMeasured
from service.job import Array

#: Takes the body of a rank request and gives its answer.
Ask = Callable[[bytes], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Examiner:
    """Puts a question as requests, as many as its candidates need, and reads the scores."""

    spec: Spec
    table: EventTable
    ask: Ask
    most_candidates: int
    #: Whether the history travels along, for a server whose store does not know it.
    is_inline: bool = False

    def __call__(self, question: Question) -> Array:
        """(candidates, tasks); the candidates are the held-out events, unless it names others."""
        table, most = self.table, self.most_candidates
        request: dict[str, Any] = {
            "user_id": table.user_ids[question.user],
            "timestamp": question.timestamp,
        }
        if self.is_inline:
            request["history"] = self._history(question.history)
        targets = question.candidates
        if targets is None:
            targets = [table.item_ids[item] for item in table.items[question.targets].tolist()]
        parts = [targets[first : first + most] for first in range(0, len(targets), most)]
        return np.concatenate([self._scores({**request, "candidates": part}) for part in parts])

    def _scores(self, request: dict[str, Any]) -> Array:
        answer = self.ask(orjson.dumps(request))
        if answer["degraded"]:
            reasons = ", ".join(answer["degraded"])
            raise NotMeasured(f"user {request['user_id']} got a degraded answer: {reasons}")
        return np.stack([answer["scores"][task] for task in self.spec.tasks], axis=1)

    def _history(self, span: slice) -> list[dict[str, Any]]:
        """The newest events of a history; those before them could not move a score."""
        table = self.table
        newest = slice(max(span.start, span.stop - self.spec.receptive_field), span.stop)
        rows = zip(
            table.items[newest].tolist(),
            table.timestamps[newest].tolist(),
            table.labels[newest].tolist(),
            strict=True,
        )
        return [
            {
                "item_id": table.item_ids[item],
                "timestamp": timestamp,
                "feedback": {
                    task: label
                    for task, label in zip(table.tasks, labels, strict=True)
                    if label != UNKNOWN
                },
            }
            for item, timestamp, labels in rows
        ]
