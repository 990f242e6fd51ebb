"""An evaluation's questions, some users at a time: here, or spread over a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np

from models.bundle import load_bundle
from models.evaluate import Array, Question, questions
from models.events import EventTable
from models.fleet import spread
from models.progress import Advance

PARTS = 16


@dataclass(frozen=True, slots=True)
class Examination:
    """What is examined and how; the bundle lies at the same path on every machine."""

    bundle: Path
    table: EventTable
    holdout: float
    via: str
    url: str | None = None

    @property
    def evaluator(self) -> Any:
        """Of this room or another: found by name, so that this one imports none of them."""
        (entry,) = entry_points(group="marmot.evaluators", name=self.via)
        return entry.load()


def answered(exam: Examination, users: Array) -> dict[int, Array]:
    """The scores of these users' questions, by user; others are left out of the table."""
    table = exam.table.take(np.isin(exam.table.users, users))
    with exam.evaluator(load_bundle(exam.bundle), table, exam.holdout, exam.url) as score:
        return {asked.user: score(asked) for asked in questions(table, exam.holdout)}


def on_ray(exam: Examination, advance: Advance) -> Callable[[Question], Array]:
    """A scorer that has asked everything already."""
    users = np.array([asked.user for asked in questions(exam.table, exam.holdout)], np.int64)
    parts = [part for part in np.array_split(users, PARTS) if len(part)]
    scores: dict[int, Array] = {}
    for found in spread(answered, exam, parts, len(parts), on="ray", advance=advance):
        scores |= found
    return lambda asked: scores[asked.user]
